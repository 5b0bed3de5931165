"""What tools take: the parameters of a call, what they are called, and what values fit."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cellyard.codemode.errors import ToolCallError, ToolNotFoundError
from cellyard_proto.codemode.names import TOOL_METHODS

MAX_NAME = 64
"""Characters of a name."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One that a call may have."""

    name: str
    type: str = "string"
    """string, integer, number, boolean, array or object."""
    required: bool = False
    default: Any = None
    description: str = ""

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "required": self.required,
            "default": self.default,
            "description": self.description,
        }


@dataclass(frozen=True, slots=True)
class Callable:
    """What can be called of a tool: a recipe, or the tool itself."""

    name: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "parameters": [each.as_data() for each in self.parameters],
        }


@dataclass(frozen=True, slots=True)
class Outline:
    """What a tool is from outside."""

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    callables: tuple[Callable, ...] = ()
    recipes: tuple[str, ...] | None = ()
    """None where they are not known."""

    def as_data(self) -> dict[str, Any]:
        """A ToolDict."""
        return {
            "name": self.name,
            "description": self.description,
            "tags": list(self.tags),
            "callables": [each.as_data() for each in self.callables],
        }


class Tool(Protocol):
    """A tool whose definition is right. All of it is called in one event loop."""

    @property
    def name(self) -> str: ...

    def outline(self) -> Outline: ...

    async def open(self) -> None:
        """Makes ready what can fail. Raises ToolCallError; it may be called all the same."""
        ...

    def check(self, recipe: str | None, args: Mapping[str, Any]) -> None:
        """Raises ToolNotFoundError and ToolCallError for a call that cannot be made."""
        ...

    async def call(self, recipe: str | None, args: Mapping[str, Any]) -> Any:
        """Checks, and calls. Raises ToolNotFoundError, ToolCallError, ToolTimeoutError."""
        ...

    async def close(self) -> None:
        """Ends what it started; it is not called again."""
        ...


def bad_name(name: str, methods: frozenset[str] = TOOL_METHODS) -> str | None:
    """Why no tool can be called so; None where it can. `methods`: what beside it has a name already."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        return f"{name[:80]!r} is no name of 1 to {MAX_NAME} ASCII letters, digits and _, not beginning with a digit"
    if name.startswith("_"):
        return f"{name!r} begins with _"
    if keyword.iskeyword(name):
        return f"{name!r} is a keyword of Python"
    if name in methods:
        return f"{name!r} is a method of the tools themselves"
    return None


def unknown_recipe(tool: str, recipe: str, recipes: Iterable[str]) -> ToolNotFoundError:
    return ToolNotFoundError(f"Unknown recipe: {tool}.{recipe[:80]}. Available: {', '.join(recipes) or 'none'}")


def refuse_unknown(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises ToolCallError for arguments that are none of the known ones."""
    names = list(known)
    unknown = [repr(name)[:80] for name in given if name not in names]
    if unknown:
        raise ToolCallError(f"{what} has no parameter {', '.join(unknown[:5])}. Known: {', '.join(names) or 'none'}")


def misfit(type_: str, value: Any) -> str | None:
    """Why the value is not of this type; None where it is. A bool is no integer; an array holds text and numbers."""
    match type_:
        case "boolean":
            fits = isinstance(value, bool)
        case "integer":
            fits = isinstance(value, int) and not isinstance(value, bool)
        case "number":
            fits = _is_number(value)
        case "array":
            if not isinstance(value, list | tuple):
                fits = False
            else:
                for item in value:
                    if not isinstance(item, str) and not _is_number(item):
                        return f"must be an array of strings and numbers, but holds {_kind(item)}"
                return next(filter(None, (_bad_text(item) for item in value if isinstance(item, str))), None)
        case "object":
            fits = isinstance(value, dict)
        case _:
            if isinstance(value, str):
                return _bad_text(value)
            fits = False
    article = "an" if type_[0] in "aeio" else "a"
    return None if fits else f"must be {article} {type_}, not {_kind(value)}"


def as_text(value: Any) -> str:
    """A string or a number as a command line, an address or a header has it."""
    return value if isinstance(value, str) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bad_text(value: str) -> str | None:
    if "\x00" in value:
        return "holds a zero byte"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return None


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return "None" if value is None else type(value).__name__
