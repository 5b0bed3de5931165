"""The value of a cell's last expression, from the protocol's tagged JSON (outputs.proto, Value) to Python data.

It comes from untrusted code: it is data, never unpickled, and what cannot be read stays the text it was.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any


def decode_value(text: str, *, is_repr: bool) -> tuple[Any, bool]:
    """The value, and whether it is a mere repr. Text that is no proper value is given back as a repr."""
    if not text:
        return None, False
    try:
        value = _untag(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        return text, True
    return value, is_repr


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
    "$datetime": datetime.fromisoformat,
    "$float": _floating,
    "$int": int,
    "$dict": lambda content: {_untag(key): _untag(item) for key, item in content},
}
