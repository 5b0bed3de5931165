"""What MCP servers offer, as recipes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import types

from cellyard.codemode.errors import ToolCallError
from cellyard.codemode.tools.mcp_offers import offers, result, sanitised
from cellyard.codemode.tools.parameters import bad_name


def tool(name: str, **schema: Any) -> types.Tool:
    return types.Tool(name=name, description=f"does {name}", inputSchema={"type": "object", **schema})


def text(*texts: str, **more: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=each) for each in texts], **more)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("add", "add"),
        ("get-file", "get_file"),
        ("a.b/c", "a_b_c"),
        ("2nd", "t_2nd"),
        ("__init__", "init__"),
        ("class", "class_"),
        ("search", "search"),
        ("list", "list_"),
        ("", "t_"),
        ("é", "t_"),
        ("x" * 100, "x" * 64),
    ],
)
def test_names_that_are_no_identifiers_get_one(name: str, called: str) -> None:
    assert sanitised(name) == called


@given(st.text(max_size=100))
def test_every_name_can_be_called_afterwards(name: str) -> None:
    assert bad_name(sanitised(name)) is None


def test_of_two_with_one_name_the_one_that_has_it_is_taken() -> None:
    found, problems = offers([tool("a-b"), tool("a_b"), tool("a.b"), tool("c")])
    assert [(each.name, each.real_name) for each in found] == [("a_b", "a_b"), ("c", "c")]
    assert problems == [
        "its tool 'a-b' is left out: 'a_b' is called a_b already",
        "its tool 'a.b' is left out: 'a_b' is called a_b already",
    ]


def test_parameters_come_from_the_schema() -> None:
    found, _ = offers(
        [
            tool(
                "t",
                properties={
                    "a": {"type": "integer", "description": "how many"},
                    "b": {"anyOf": [{"type": "null"}, {"type": "array"}], "default": None},
                    "c": {"type": ["null", "number"], "default": 1.5},
                    "d": True,
                },
                required=["a"],
            )
        ]
    )
    assert [each.as_data() for each in found[0].parameters] == [
        {"name": "a", "type": "integer", "required": True, "default": None, "description": "how many"},
        {"name": "b", "type": "array", "required": False, "default": None, "description": ""},
        {"name": "c", "type": "number", "required": False, "default": 1.5, "description": ""},
        {"name": "d", "type": "string", "required": False, "default": None, "description": ""},
    ]


def test_arguments_are_checked_against_names_and_what_is_required() -> None:
    [closed, open_, anything], _ = offers(
        [
            tool("closed", properties={"a": {}}, required=["a"]),
            tool("open", properties={"a": {}}, additionalProperties=True),
            tool("anything"),
        ]
    )
    assert closed.check("t.closed", {"a": (1, 2)}) == {"a": [1, 2]}
    assert open_.check("t.open", {"z": 1}) == {"z": 1}
    assert anything.check("t.anything", {"z": 1}) == {"z": 1}
    for args, says in [
        ({}, "t.closed: Required parameter 'a' is missing"),
        ({"a": 1, "b": 2}, "t.closed has no parameter 'b'. Known: a"),
        ({"a": b"x"}, "the arguments are no JSON"),
        ({"a": float("inf")}, "the arguments are no JSON"),
        ({"a": "\ud800"}, "the arguments are no JSON"),
    ]:
        with pytest.raises(ToolCallError, match=says.replace(".", r"\.")):
            closed.check("t.closed", args)


@pytest.mark.parametrize("schema", [{"properties": []}, {"properties": {"a": 1}, "required": "a"}, {"anyOf": 3}])
def test_schemas_that_are_none_do_no_harm(schema: dict[str, Any]) -> None:
    found, problems = offers([tool("t", **schema)])
    assert found[0].name == "t"
    assert not problems


def test_results_are_text_or_data_or_parts() -> None:
    assert result(text("a", "b")) == "a\nb"
    assert result(text("a", structuredContent={"x": 1})) == "a"
    assert result(text(structuredContent={"x": 1})) == {"x": 1}
    assert result(text()) == ""
    image = types.ImageContent(type="image", data="AAE=", mimeType="image/png")
    blob = types.BlobResourceContents.model_validate({"uri": "file:///x", "mimeType": "a/b", "blob": "Ag=="})
    parts = [types.TextContent(type="text", text="t"), image, types.EmbeddedResource(type="resource", resource=blob)]
    assert result(types.CallToolResult(content=[*parts])) == [
        {"type": "text", "text": "t"},
        {"type": "image", "data": b"\x00\x01", "mime_type": "image/png"},
        {"type": "resource", "uri": "file:///x", "data": b"\x02", "mime_type": "a/b"},
    ]


def test_errors_are_errors() -> None:
    with pytest.raises(ToolCallError, match="no such thing"):
        result(text("no such thing", isError=True))
    with pytest.raises(ToolCallError, match="base64"):
        result(types.CallToolResult(content=[types.ImageContent(type="image", data="***", mimeType="image/png")]))
