"""JSON from outside: parsed within bounds, and without holding up the event loop's thread from another one."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 100
"""Levels of arrays and objects. Deeper ones exhaust the stack of whoever reads them."""
MAX_CONTAINERS = 1_000_000
"""Arrays and objects in one text: `[]` is two bytes there and seventy in memory."""

_TOO_DEEP = "it is nested more than {} levels deep"
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

# The parser is C and keeps the interpreter's lock until it returns or calls Python. These calls let others in: 27 MB
# without them stop the event loop for a second, with them for some hundredths.
_DECODER = json.JSONDecoder(
    object_hook=lambda value: value,
    parse_int=lambda digits: int(digits),
    parse_float=lambda digits: float(digits),
)


def parse(text: str, *, max_depth: int = MAX_DEPTH) -> Any:
    """A JSON document. Raises ValueError with what is wrong with it."""
    if _containers(text) > MAX_CONTAINERS:
        raise ValueError(f"it has more than {MAX_CONTAINERS} arrays and objects")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP.format(max_depth)) from None
    level = [value]
    for _ in range(max_depth + 1):
        level = [child for each in level if isinstance(each, dict | list) for child in _children(each)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP.format(max_depth))


def _children(container: dict[str, Any] | list[Any]) -> list[Any]:
    values = container.values() if isinstance(container, dict) else container
    return [value for value in values if isinstance(value, dict | list)]


def _containers(text: str) -> int:
    """How many arrays and objects there are. Brackets in strings are looked at only where there are many."""
    count = text.count("[") + text.count("{")
    if count <= MAX_CONTAINERS:
        return count
    return count - sum(found.group().count("[") + found.group().count("{") for found in _STRING.finditer(text))
