"""Values as data: tagged JSON, as outputs.proto's Value has it.

Runs in the kernel, so it must not fail, not take long, and import nothing that a cell pays for.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

from cellyard_sandbox.text import clean

MIME = "application/vnd.cellyard.value+json"
"""Representation of a result under which the kernel hands its value to the agent; it goes no further."""

MAX_BYTES = 1024 * 1024
"""Bytes of a value's JSON, at most; a larger one travels as its repr."""

MAX_DEPTH = 32
"""Containers within containers, at most."""

MAX_REPR = 64 * 1024
"""Characters of a repr, at most; a longer one is cut."""

_SAFE_INTEGER = 2**53 - 1  # beyond it JSON's readers may lose digits
_LARGE = f"larger than {MAX_BYTES} bytes"
_BUILT_IN = (str, bytes, list, tuple, dict, set, int)


class Encoded(TypedDict):
    """A value as it travels from the kernel to the agent."""

    json: str
    is_repr: bool


class NotData(Exception):
    """The value is, or holds, something that is no data. The message names its type."""


class TooLarge(NotData):
    """The value is too large, or nested too deep. The message says which."""


def encode_data(value: Any) -> str:
    """The value as JSON. Raises NotData."""
    try:
        text = _dump(_Tree().add(value, 0))
    except NotData:
        raise
    except Exception as failed:  # a subclass of a built-in type may raise anything from its methods
        raise NotData(type(value).__name__) from failed
    if len(text) > MAX_BYTES:
        raise TooLarge(_LARGE)
    return text


def encode(value: Any, shown: str = "") -> Encoded:
    """The value as data, or its repr where it is none. Raises nothing but what interrupts the cell.

    `shown` is the text that the cell shows for the value: it stands in for the repr of large built-in
    containers, whose own could take minutes.
    """
    try:
        return {"json": encode_data(value), "is_repr": False}
    except NotData:
        return {"json": _dump(_repr(value, shown)), "is_repr": True}


def decode(text: str) -> Any:
    """The value that this JSON stands for. Raises ValueError, TypeError or RecursionError where it is none."""
    return _untag(json.loads(text))


def _dump(tree: Any) -> str:
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text if clean(text) is text else json.dumps(tree, separators=(",", ":"), allow_nan=False)


def _repr(value: Any, shown: str) -> str:
    try:
        text = shown if shown and isinstance(value, _BUILT_IN) else repr(value)
        return clean(text if len(text) <= MAX_REPR else text[:MAX_REPR] + "…")
    except Exception:  # __repr__ is the cell's own code
        return f"<{type(value).__name__} object>"


class _Tree:
    """Builds what json.dumps takes, and stops as soon as it has become too large."""

    def __init__(self) -> None:
        self._left = MAX_BYTES

    def add(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return self._paid(value, 4)
        if isinstance(value, str):
            return self._paid(str.__str__(value), len(value) + 2)
        if isinstance(value, int):
            return self._integer(int(value))
        if isinstance(value, float):
            return self._float(float(value))
        if isinstance(value, complex):
            return self._paid({"$complex": [self._float(value.real), self._float(value.imag)]}, 16)
        if isinstance(value, bytes):
            self._pay(len(value) * 4 // 3 + 12)
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        if type(value) is datetime.datetime:
            return self._paid({"$datetime": value.isoformat()}, 48)
        if depth >= MAX_DEPTH:
            raise TooLarge(f"nested more than {MAX_DEPTH} deep")
        return self._container(value, depth + 1)

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, list):
            return self._items(value, depth)
        if isinstance(value, tuple):
            return {"$tuple": self._items(value, depth)}
        if isinstance(value, set):
            return {"$set": self._items(value, depth)}
        if isinstance(value, dict):
            self._pay(2 * len(value) + 2)
            if all(type(key) is str and not key.startswith("$") for key in value):
                self._pay(sum(map(len, value)))
                return {key: self.add(item, depth) for key, item in value.items()}
            return {"$dict": [[self.add(key, depth), self.add(item, depth)] for key, item in value.items()]}
        raise NotData(type(value).__name__)

    def _items(self, values: Iterable[Any], depth: int) -> list[Any]:
        self._pay(12)
        return [self.add(item, depth) for item in values]

    def _integer(self, value: int) -> Any:
        if -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
            return self._paid(value, 2)
        self._pay(value.bit_length() * 3 // 10)
        return {"$int": str(value)}

    def _float(self, value: float) -> Any:
        self._pay(4)
        if value != value:
            return {"$float": "nan"}
        if value in (float("inf"), float("-inf")):
            return {"$float": "inf" if value > 0 else "-inf"}
        return value

    def _paid(self, tree: Any, size: int) -> Any:
        self._pay(size)
        return tree

    def _pay(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge(_LARGE)


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag in _TAGS:
            return _TAGS[tag](content)
    return {key: _untag(item) for key, item in value.items()}


def _complex(content: Any) -> complex:
    real, imaginary = content
    return complex(_untag(real), _untag(imaginary))


_TAGS: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda content: base64.b64decode(content, validate=True),
    "$tuple": lambda content: tuple(_untag(item) for item in content),
    "$set": lambda content: {_untag(item) for item in content},
    "$complex": _complex,
    "$datetime": datetime.datetime.fromisoformat,
    "$float": float,
    "$int": int,
    "$dict": lambda content: {_untag(key): _untag(item) for key, item in content},
}
