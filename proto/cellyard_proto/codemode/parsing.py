"""Python code as a tree, in programs with many threads."""

from __future__ import annotations

import ast
import threading

_TRIES = 100
_turn = threading.Lock()


def tree(source: str, file: str = "<unknown>", flags: int = 0) -> ast.Module:
    """As ast.parse; raises what that does, but for a SystemError that is not the source's fault.

    CPython 3.11 and 3.12 count depths for all threads together: parsing fails ("recursion depth mismatch") where two
    of them do it, and the garbage collector lets one take over from the other. Ours take turns, others in the program
    do not.
    """
    for _ in range(_TRIES):
        try:
            with _turn:
                parsed = compile(source, file, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        except SystemError:
            continue
        assert isinstance(parsed, ast.Module)
        return parsed
    raise MemoryError("the code could not be parsed")
