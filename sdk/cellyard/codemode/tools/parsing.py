"""Definitions from YAML. Errors name file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from cellyard.codemode.errors import ToolDefinitionError
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools import located_yaml
from cellyard.codemode.tools.definitions import TYPES, Definition
from cellyard.codemode.tools.folder import Unreadable


class BadDefinition(Exception):
    """A definition that is not taken, and what the tool would have been called."""

    def __init__(self, name: str, error: ToolDefinitionError) -> None:
        super().__init__(str(error))
        self.name = name
        self.error = error


def parse(stored: StoredTool) -> Definition:
    """Reads a definition. Raises BadDefinition."""

    def bad(line: int, message: str) -> BadDefinition:
        return BadDefinition(name, ToolDefinitionError(f"{stored.path}:{line}: {message}"))

    name = stored.name
    if isinstance(stored, Unreadable):
        raise bad(1, stored.reason)
    try:
        found = located_yaml.read(stored.text)
    except located_yaml.BadYaml as failure:
        raise bad(failure.line, str(failure)) from None
    if not isinstance(found.data, dict):
        raise bad(1, "a tool's definition is a mapping with name, type, ...")
    if isinstance(found.data.get("name"), str):
        name = found.data["name"]
    type_ = found.data.get("type", "cli")
    if not isinstance(type_, str) or type_ not in TYPES:
        raise bad(found.line(("type",)), f"type: {type_!r:.80} is none of {', '.join(TYPES)}")
    try:
        return TYPES[type_].model_validate(found.data)
    except ValidationError as failure:
        lines = [f"{stored.path}:{line}: {message}" for line, message in sorted(_messages(failure, found))]
        raise BadDefinition(name, ToolDefinitionError("\n".join(lines[:10]))) from None


def _messages(failure: ValidationError, found: located_yaml.Located) -> Iterator[tuple[int, str]]:
    """Lines, and what is wrong there; never the value itself, which may be a secret."""
    for error in failure.errors(include_url=False, include_context=False, include_input=False):
        path = _existing(error["loc"], found.data)
        message = error["msg"]
        if error["type"] == "definition" and (inner := re.match(r"([A-Za-z0-9_.-]+): ", message)):
            # A rule between fields names the one that breaks it, from where it looks.
            inside = _existing((*path, *_numbers(inner[1].split("."))), found.data)
            if len(inside) > len(path):
                path, message = inside, message[inner.end() :]
        if error["type"] == "extra_forbidden":
            message = "no such field"
        if error["type"] == "missing":
            message = f"{error['loc'][-1]} is missing"
        yield found.line(path), ": ".join(filter(None, (".".join(map(str, path)), message)))


def _existing(location: tuple[str | int, ...], data: Any) -> located_yaml.Path:
    """The part of a pydantic location that is in the data: its own marks, of unions and keys, are none."""
    path: list[str | int] = []
    for step in location:
        inside = step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))
        if not inside:
            break
        path.append(step)
        data = data[step]
    return tuple(path)


def _numbers(parts: list[str]) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in parts)
