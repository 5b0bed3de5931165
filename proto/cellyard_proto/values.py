"""Python data as JSON with a few tagged types, as outputs.proto's Value has it.

What is read comes from untrusted code: it is data, never unpickled. The standard library is all that this needs,
because it runs in kernels too.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterable
from typing import Any

MAX_BYTES = 1024 * 1024
"""Bytes of a value's JSON, at most, where nothing else is said."""
MAX_DEPTH = 32
"""Containers within containers, at most."""

_SAFE_INTEGER = 2**53 - 1  # beyond it JSON's readers may lose digits


class NotData(TypeError):
    """The value is, or holds, something that is no data. The message names its type."""


class TooLarge(ValueError):
    """The value is too large, or nested too deep. The message says which."""


def encode(value: Any, max_bytes: int = MAX_BYTES) -> str:
    """The value as JSON. Raises NotData, TooLarge."""
    try:
        text = dump(_Tree(max_bytes).add(value, 0))
    except (NotData, TooLarge):
        raise
    except Exception as failed:  # a subclass of a built-in type may raise anything from its methods
        raise NotData(type(value).__name__) from failed
    if len(text) > max_bytes:
        raise TooLarge(_large(max_bytes))
    return text


def decode(text: str) -> Any:
    """The value that this JSON stands for. Raises ValueError, TypeError, KeyError or RecursionError."""
    return _untag(json.loads(text))


def dump(tree: Any) -> str:
    """JSON as Unicode can carry it: half a surrogate pair is escaped."""
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(tree, separators=(",", ":"), allow_nan=False)
    return text


def _large(max_bytes: int) -> str:
    return f"larger than {max_bytes} bytes"


class _Tree:
    """Builds what json.dumps takes, and stops as soon as it has become too large."""

    def __init__(self, max_bytes: int) -> None:
        self._max = self._left = max_bytes

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
            raise TooLarge(_large(self._max))


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


def _floating(content: Any) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise ValueError("no such float")
    return float(content)


def _number(part: Any) -> float:
    value = _untag(part)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no number")
    return float(value)


def _complex(content: Any) -> complex:
    real, imaginary = content
    return complex(_number(real), _number(imaginary))


_TAGS: dict[str, Callable[[Any], Any]] = {
    "$bytes": lambda content: base64.b64decode(content, validate=True),
    "$tuple": lambda content: tuple(_untag(item) for item in content),
    "$set": lambda content: {_untag(item) for item in content},
    "$complex": _complex,
    "$datetime": datetime.datetime.fromisoformat,
    "$float": _floating,
    "$int": int,
    "$dict": lambda content: {_untag(key): _untag(item) for key, item in content},
}
