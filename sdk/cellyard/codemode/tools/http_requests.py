"""Requests from arguments, and data from answers. Pure; every value stays where the definition puts it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cellyard.codemode.errors import ToolCallError
from cellyard.codemode.tools.definitions import Endpoint, HttpDefinition, HttpParameter
from cellyard.codemode.tools.parameters import (
    Callable,
    Outline,
    Parameter,
    as_text,
    misfit,
    refuse_unknown,
    unknown_recipe,
)


@dataclass(frozen=True, slots=True)
class Request:
    """What goes over the wire."""

    method: str
    url: str
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    body: bytes | None


def outline(definition: HttpDefinition) -> Outline:
    """What the tool is from outside: its endpoints."""
    callables = [
        Callable(
            name,
            endpoint.description,
            tuple(
                Parameter(parameter, each.type, _required(endpoint, parameter), each.default, each.description)
                for parameter, each in endpoint.params.items()
            ),
        )
        for name, endpoint in definition.endpoints.items()
    ]
    return Outline(
        definition.name, definition.description, tuple(definition.tags), tuple(callables), tuple(definition.endpoints)
    )


def request(definition: HttpDefinition, recipe: str | None, args: Mapping[str, Any]) -> Request:
    """The request of an endpoint; the tool itself is its only endpoint, or the one called as it.

    Raises ToolNotFoundError, and ToolCallError for arguments that do not fit.
    """
    name = recipe
    if name is None or (name == definition.name and name not in definition.endpoints):
        only = list(definition.endpoints)
        name = definition.name if definition.name in only else only[0] if len(only) == 1 else None
    endpoint = definition.endpoints.get(name) if name is not None else None
    if name is None or endpoint is None:
        raise unknown_recipe(definition.name, recipe or definition.name, definition.endpoints)
    what = f"{definition.name}.{name}"
    refuse_unknown(what, args, endpoint.params)
    path: dict[str, str] = {}
    query: list[tuple[str, str]] = []
    headers = dict(definition.headers)
    body: dict[str, Any] = {}
    for parameter, each in endpoint.params.items():
        value = _value(what, parameter, each, _required(endpoint, parameter), args)
        if value is None:
            continue
        match endpoint.place(parameter):
            case "path":
                path[parameter] = _text(value)
            case "query":
                query += [(parameter, _text(item)) for item in (value if each.type == "array" else [value])]
            case "header":
                headers[parameter] = _header(what, parameter, _text(value))
            case _:
                body[parameter] = list(value) if each.type == "array" else value
    has_body = any(endpoint.place(each) == "body" for each in endpoint.params)
    if has_body and not any(each.lower() == "content-type" for each in headers):
        headers["Content-Type"] = "application/json"
    return Request(
        endpoint.method,
        definition.base_url.rstrip("/") + _path(what, endpoint, path),
        tuple(query),
        headers,
        _json(what, body) if has_body else None,
    )


def data(content: bytes, content_type: str, charset: str | None) -> Any:
    """An answer's content: JSON as data where it says that it is JSON, and is; else text; else bytes."""
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            pass  # it is no JSON, or too deep to be data: its text is at least what was sent
    try:
        return content.decode(charset or "utf-8")
    except (UnicodeError, LookupError):
        return content


def _required(endpoint: Endpoint, name: str) -> bool:
    parameter = endpoint.params[name]
    return (parameter.required or endpoint.place(name) == "path") and parameter.default is None


def _value(what: str, name: str, parameter: HttpParameter, required: bool, args: Mapping[str, Any]) -> Any:
    value = args.get(name)
    if value is None:
        if required:
            raise ToolCallError(f"{what}: Required parameter '{name}' is missing")
        return parameter.default
    if reason := misfit(parameter.type, value):
        raise ToolCallError(f"{what}: {name} {reason}")
    return value


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else as_text(value)


def _header(what: str, name: str, value: str) -> str:
    if not value.isascii() or not value.replace("\t", " ").isprintable():
        raise ToolCallError(f"{what}: {name} holds characters that headers cannot have")
    return value


def _path(what: str, endpoint: Endpoint, values: Mapping[str, str]) -> str:
    """The path with every value as a part of a segment: / in it is escaped, and none makes one that climbs."""
    path = endpoint.path
    for name, value in values.items():
        if not value:
            raise ToolCallError(f"{what}: {name} is empty")
    segments = []
    for segment in path.split("/"):
        filled = segment
        if any(f"{{{name}}}" in segment for name in values):
            filled = "".join(
                quote(values[part], safe="") if place % 2 else part for place, part in enumerate(_parts(segment))
            )
            if filled in (".", ".."):
                raise ToolCallError(f"{what}: {filled!r} cannot be a part of a path")
        segments.append(filled)
    return "/".join(segments)


def _parts(segment: str) -> list[str]:
    """Text, placeholder, text, placeholder, ..., text."""
    return [part for piece in segment.split("{") for part in piece.split("}")]


def _json(what: str, body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as bad:
        raise ToolCallError(f"{what}: the body is no JSON: {bad}") from None
