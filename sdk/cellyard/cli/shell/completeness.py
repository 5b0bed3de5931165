"""Whether what was typed is to be run, or goes on in another line. Pure; nobody is asked."""

from __future__ import annotations

import ast
import codeop

INDENT = "    "
_PAIRS = {")": "(", "]": "[", "}": "{"}


def complete(code: str, kernel_type: str) -> bool:
    """Whether Enter at the end of this code runs it.

    A block goes on until an empty line. What cannot be right is complete: the kernel says what is wrong with it.
    """
    last = code.rpartition("\n")[2]
    if code.lstrip().startswith("%%"):
        return "\n" in code and not last.strip()
    if kernel_type == "python":
        return _python(code, last)
    return not _open_brackets(code)


def indentation(code: str, kernel_type: str) -> str:
    """What the next line begins with."""
    last = code.rpartition("\n")[2]
    margin = last[: len(last) - len(last.lstrip())]
    deeper = ":" if kernel_type == "python" else "{"
    return margin + INDENT if last.rstrip().endswith(deeper) else margin


def _python(code: str, last: str) -> bool:
    # Shell commands, magics and `name?` are IPython's; to Python's compiler they are errors, and so complete.
    if "\n" in code and last.strip() and last[0] in " \t":
        return False
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compiler(code, symbol="exec") is not None
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return True


def _open_brackets(code: str) -> bool:
    """Whether brackets or a template literal are still open, as a lexer for TypeScript sees it."""
    from pygments.lexers import TypeScriptLexer  # type: ignore[import-untyped]
    from pygments.token import Comment, String  # type: ignore[import-untyped]

    opened: list[str] = []
    backticks = 0
    for kind, text in TypeScriptLexer().get_tokens(code):
        if kind in String.Backtick and text == "`":
            backticks += 1
        if kind in String or kind in Comment:
            continue
        for character in text:
            if character in "([{":
                opened.append(character)
            elif opened and _PAIRS.get(character) == opened[-1]:
                opened.pop()
    return bool(opened) or backticks % 2 == 1
