"""What an MCP server offers, as recipes; arguments against its schemas; its results as data. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp import types

from cellyard.codemode.errors import ToolCallError
from cellyard.codemode.tools.parameters import MAX_NAME, Callable, Parameter, bad_name, refuse_unknown
from cellyard_proto.codemode.names import RECIPE_METHODS

_TYPES = ("string", "integer", "number", "boolean", "array", "object")


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool of a server."""

    name: str
    """What it is called here."""
    real_name: str
    """What the server calls it."""
    description: str
    parameters: tuple[Parameter, ...]
    open: bool
    """Takes arguments that its schema does not name."""

    def as_callable(self) -> Callable:
        return Callable(self.name, self.description, self.parameters)

    def check(self, what: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as JSON has them. Raises ToolCallError; types are the server's to check."""
        if not self.open:
            refuse_unknown(what, args, [each.name for each in self.parameters])
        for each in self.parameters:
            if each.required and each.name not in args:
                raise ToolCallError(f"{what}: Required parameter '{each.name}' is missing")
        try:
            checked = json.loads(json.dumps(dict(args), allow_nan=False))
            json.dumps(checked, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as bad:
            raise ToolCallError(f"{what}: the arguments are no JSON: {bad}") from None
        return dict(checked)


def sanitised(name: str) -> str:
    """The name as an identifier: every other character is _, none of which stays in front, at most 64 characters.

    A digit in front gets `t_` before it; a keyword of Python and `list` get _ behind them.
    """
    found = re.sub(r"[^A-Za-z0-9_]", "_", name).lstrip("_")
    if not found or found[0].isdigit():
        found = f"t_{found}"
    found = found[:MAX_NAME]
    return f"{found[: MAX_NAME - 1]}_" if keyword.iskeyword(found) or found in RECIPE_METHODS else found


def offers(tools: Sequence[types.Tool]) -> tuple[list[Offer], list[str]]:
    """The server's tools under names that can be called, and what is wrong with those that are left out.

    Of two that would have one name, the one that really has it is taken, else the first.
    """
    taken: dict[str, Offer] = {}
    for tool in sorted(tools, key=lambda tool: bad_name(tool.name, RECIPE_METHODS) is not None):
        taken.setdefault(sanitised(tool.name), _offer(tool))
    problems = [
        f"its tool {tool.name[:80]!r} is left out: {taken[sanitised(tool.name)].real_name[:80]!r} is called"
        f" {sanitised(tool.name)} already"
        for tool in tools
        if taken[sanitised(tool.name)].real_name != tool.name
    ]
    return [taken[name] for name in dict.fromkeys(sanitised(tool.name) for tool in tools)], problems


def result(answer: types.CallToolResult) -> Any:
    """Text parts joined by newlines; structured content where there is no part at all; else a list of parts as dicts.

    A part that is no text has `type` (image, audio, resource, resource_link), bytes in `data` or text in `text`, and
    `mime_type`, `uri` and `name` where it has them. Raises ToolCallError for what says that it is an error.
    """
    texts = [part.text for part in answer.content if isinstance(part, types.TextContent)]
    if answer.isError:
        raise ToolCallError("\n".join(texts)[:10_000] or "the server says that it failed, and no more")
    if not answer.content and answer.structuredContent is not None:
        return answer.structuredContent
    if len(texts) == len(answer.content):
        return "\n".join(texts)
    return [dict(_part(part)) for part in answer.content]


def _part(part: types.ContentBlock) -> Iterator[tuple[str, Any]]:
    yield "type", part.type
    if isinstance(part, types.TextContent):
        yield "text", part.text
    elif isinstance(part, types.ImageContent | types.AudioContent):
        yield "data", _bytes(part.data)
        yield "mime_type", part.mimeType
    elif isinstance(part, types.EmbeddedResource):
        yield "uri", str(part.resource.uri)
        if isinstance(part.resource, types.TextResourceContents):
            yield "text", part.resource.text
        else:
            yield "data", _bytes(part.resource.blob)
        yield "mime_type", part.resource.mimeType
    else:
        yield "uri", str(part.uri)
        yield "name", part.name
        yield "mime_type", part.mimeType


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ToolCallError("the server's answer holds data that are no base64") from None


def _offer(tool: types.Tool) -> Offer:
    schema = tool.inputSchema
    properties = schema.get("properties")
    required = schema.get("required")
    named = properties if isinstance(properties, dict) else {}
    wanted = {each for each in required if isinstance(each, str)} if isinstance(required, list) else set()
    parameters = [_parameter(name, each, name in wanted) for name, each in named.items()]
    parameters += [Parameter(name, required=True) for name in sorted(wanted - set(named))]
    extra = schema.get("additionalProperties")
    takes_others = extra not in (None, False) or (not isinstance(properties, dict) and extra is None)
    return Offer(sanitised(tool.name), tool.name, tool.description or "", tuple(parameters), takes_others)


def _parameter(name: str, schema: object, required: bool) -> Parameter:
    if not isinstance(schema, dict):
        return Parameter(name, required=required)
    description = schema.get("description")
    return Parameter(
        name, _type(schema), required, schema.get("default"), description if isinstance(description, str) else ""
    )


def _type(schema: Mapping[str, Any]) -> str:
    """The first type that a schema names, and that is not null; without one it is a string, as far as anybody knows."""
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    said = (
        [each.get("type") for each in alternatives if isinstance(each, dict)] if isinstance(alternatives, list) else []
    )
    type_ = schema.get("type")
    said = [*type_, *said] if isinstance(type_, list) else [type_, *said]
    return next((each for each in said if each in _TYPES), "string")
