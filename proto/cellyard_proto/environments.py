"""Dependencies that stand in a notebook's metadata, read alike by clients and by the controller."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_TOOLS = ("uv", "conda")


class Malformed(ValueError):
    """The metadata has dependencies that are none. The message names the place."""


@dataclass(frozen=True, slots=True)
class Inline:
    """Dependencies as the metadata has them, unchecked."""

    env_source: str
    """`uv:inline` or `conda:inline`."""
    requirements: tuple[str, ...]
    requires_python: str = ""
    channels: tuple[str, ...] = ()


def inline(metadata: str | None, tools: tuple[str, ...] = _TOOLS) -> Inline | None:
    """The dependencies in nbformat's metadata (JSON text): uv's before conda's, `runt.uv` before the older `uv`.

    None where there are none, an empty list included, and where the text is no JSON object. Raises Malformed.
    """
    root = _parsed(metadata)
    places = [(tool, place) for tool in tools for place in (f"runt.{tool}", tool)]
    for tool, place in places:
        table = _at(root, place)
        requirements = _words(table, "dependencies", place)
        if not requirements:
            continue
        if tool == "conda":
            return Inline("conda:inline", requirements, channels=_words(table, "channels", place))
        return Inline("uv:inline", requirements, _word(table, "requires-python", place))
    return None


def _parsed(metadata: str | None) -> Any:
    try:
        return json.loads(metadata or "{}")
    except (ValueError, RecursionError):
        return {}


def _at(root: Any, place: str) -> dict[str, Any]:
    found = root
    for name in place.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _words(table: dict[str, Any], name: str, place: str) -> tuple[str, ...]:
    value = table.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise Malformed(f"{place}.{name} in the notebook's metadata is no list of strings")
    return tuple(value)


def _word(table: dict[str, Any], name: str, place: str) -> str:
    value = table.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{place}.{name} in the notebook's metadata is no string")
    return value
