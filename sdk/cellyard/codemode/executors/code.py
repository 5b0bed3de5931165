"""Code as it is compiled, evaluated and told of. All of it runs in the thread that runs code, which it may hold up."""

from __future__ import annotations

import ast
import inspect
import linecache
import reprlib
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import cellyard_proto.codemode
from cellyard.codemode.results import Failure
from cellyard_proto import values
from cellyard_proto.codemode import parsing

_SOURCES = 200  # runs whose lines tracebacks can show
_LONGEST_REPR = 64 * 1024  # characters, as kernels have it
_LONGEST_ERROR = 256 * 1024  # characters of a traceback
_OWN = tuple(f"{Path(place).parent}/" for place in (__file__, str(cellyard_proto.codemode.__file__)))
_AWAITING = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@dataclass(frozen=True, slots=True)
class Parts:
    """Compiled code: its statements, and the expression that it ends with."""

    statements: CodeType
    expression: CodeType | None

    @property
    def awaits(self) -> bool:
        """Whether it needs an event loop."""
        return any(
            part is not None and part.co_flags & inspect.CO_COROUTINE for part in (self.statements, self.expression)
        )


def compiled(code: str, file: str) -> Parts:
    """Raises SyntaxError, ValueError, RecursionError and MemoryError for what is no Python."""
    tree = parsing.tree(code, file, _AWAITING)
    expression: CodeType | None = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not _muted(code, tree.body[-1]):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
        expression = compile(last, file, "eval", _AWAITING, dont_inherit=True)
    return Parts(compile(tree, file, "exec", _AWAITING, dont_inherit=True), expression)


def _muted(code: str, last: ast.Expr) -> bool:
    """Whether a semicolon follows, which hides the value as in a notebook."""
    lines = code.encode().splitlines(keepends=True)
    end = (last.end_lineno or 1) - 1
    rest = b"".join([lines[end][last.end_col_offset or 0 :], *lines[end + 1 :]])
    return rest.lstrip().startswith(b";")


def evaluate(parts: Parts, names: dict[str, Any], complete: Callable[[Coroutine[Any, Any, Any]], Any]) -> Any:
    """The value that the code ends with. `complete`: runs a coroutine on an event loop."""
    if parts.awaits:
        return complete(_awaited(parts, names))
    exec(parts.statements, names)
    return None if parts.expression is None else eval(parts.expression, names)


async def _awaited(parts: Parts, names: dict[str, Any]) -> Any:
    value = None
    for part in (parts.statements, parts.expression):
        if part is not None:
            value = eval(part, names)
            if part.co_flags & inspect.CO_COROUTINE:
                value = await value
    return value


def as_data(value: Any) -> tuple[Any, bool]:
    """A value as a kernel would give it back: data, a copy of it, or else its repr; and whether it is that."""
    try:
        return values.decode(values.encode(value)), False
    except (ValueError, TypeError, KeyError, RecursionError):  # also what decoding has to say
        return _repr(value), True


def _repr(value: Any) -> str:
    try:
        if isinstance(value, str | bytes):
            text = repr(value[:_LONGEST_REPR])
        elif isinstance(value, list | tuple | dict | set):
            text = _SHORT.repr(value)
        else:
            text = repr(value)
    except Exception:  # __repr__ is the code's own
        return f"<{type(value).__name__} object>"
    return readable(text if len(text) <= _LONGEST_REPR else text[:_LONGEST_REPR] + "…")


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 1000
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 1000
_SHORT.maxlevel = 20


def failure_of(error: BaseException) -> Failure:
    """An exception as text, of which the first and the last frames that are not the code's own are left out."""
    name = type(error).__name__
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        _leave_out(told, set())
        text, last = "".join(told.format()), "".join(told.format_exception_only())
        prefix = f"{type(error).__module__}."
        if last.startswith(prefix) and text.endswith(last):
            text = text.removesuffix(last) + last.removeprefix(prefix)
        text = readable(text.rstrip("\n"))
        if len(text) > _LONGEST_ERROR:
            text = f"{text[: _LONGEST_ERROR // 2]}\n[cut]\n{text[-_LONGEST_ERROR // 2 :]}"
        return Failure(name, readable(str(told)), text)
    except Exception:  # __str__ and what else is asked for a traceback are the code's own
        return Failure.said(name, "<its message cannot be had>")


def _leave_out(told: traceback.TracebackException, seen: set[int]) -> None:
    """Takes out what runs code and what serves its namespaces."""
    if id(told) in seen:
        return
    seen.add(id(told))
    told.stack[:] = [frame for frame in told.stack if not frame.filename.startswith(_OWN)]
    if not told.stack:
        told.stack = None  # type: ignore[assignment]  # or a title without lines would be shown
    for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        if other is not None:
            _leave_out(other, seen)


def readable(text: str) -> str:
    """The text with pairs of surrogates joined and halves of pairs replaced: fit for UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Sources:
    """The code of the latest runs, for tracebacks and `inspect`."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._number = 0
        self._files: deque[str] = deque()

    def add(self, code: str) -> str:
        """The name of the file that the code is compiled as."""
        self._number += 1
        file = f"<run {self._number} of {self._session}>"
        lines = [f"{line}\n" for line in code.splitlines()]
        linecache.cache[file] = (len(code), None, lines, file)
        self._files.append(file)
        while len(self._files) > _SOURCES:
            linecache.cache.pop(self._files.popleft(), None)
        return file

    def clear(self) -> None:
        """Forgets them."""
        while self._files:
            linecache.cache.pop(self._files.popleft(), None)
