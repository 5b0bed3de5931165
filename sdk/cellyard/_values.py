"""Python data in the protocol's tagged JSON (outputs.proto, Value).

What comes from untrusted code is data, never unpickled, and what cannot be read stays the text it was.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

_SAFE_INTEGER = 2**53 - 1  # beyond it JSON's readers may lose digits


def decode_value(text: str, *, is_repr: bool) -> tuple[Any, bool]:
    """The value, and whether it is a mere repr. Text that is no proper value is given back as a repr."""
    if not text:
        return None, False
    try:
        value = _untag(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        return text, True
    return value, is_repr


def decode_arguments(args: str, kwargs: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments. What cannot be read stays one argument, the text it was."""
    positional, _ = decode_value(args, is_repr=False)
    keywords, _ = decode_value(kwargs, is_repr=False)
    return (
        tuple(positional) if isinstance(positional, list) else (positional,),
        {str(name): value for name, value in keywords.items()} if isinstance(keywords, dict) else {},
    )


def encode_value(value: Any) -> str:
    """A value for the code. Raises TypeError for what is no data, ValueError for what is nested too deeply."""
    try:
        return json.dumps(_tag(value), separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def _tag(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _SAFE_INTEGER else {"$int": str(int(value))}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, complex):
        return {"$complex": [_tag(value.real), _tag(value.imag)]}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, list):
        return [_tag(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [_tag(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"$set": [_tag(item) for item in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _tag(item) for key, item in value.items()}
        return {"$dict": [[_tag(key), _tag(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__} is no data that code in a sandbox could be given")


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
