"""Requests of HTTP tools: every value stays where the definition puts it."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard.codemode.errors import ToolCallError, ToolNotFoundError
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools.definitions import HttpDefinition
from cellyard.codemode.tools.http_requests import Request, data, outline, request
from cellyard.codemode.tools.parsing import parse
from cellyard.codemode.tools.redaction import Redaction

API = """
name: api
type: http
base_url: http://host/v1/
headers: {Authorization: Bearer abc, X-Fixed: f}
endpoints:
  user:
    path: /users/{name}/files/{file}.json
    params:
      name: {}
      file: {in: path, default: index}
      page: {type: integer, default: 1, description: which}
      tags: {type: array}
      full: {type: boolean}
      X-Trace: {in: header}
  create:
    method: POST
    path: /users
    params:
      user: {type: object, required: true}
      dry: {type: boolean, in: query}
"""


def http(text: str = API) -> HttpDefinition:
    definition = parse(StoredTool("t", dedent(text).encode(), "t.yaml"))
    assert isinstance(definition, HttpDefinition)
    return definition


_DEFINITION = http()


def made(recipe: str | None, /, **args: Any) -> Request:
    return request(_DEFINITION, recipe, args)


def refused(recipe: str, /, **args: Any) -> str:
    with pytest.raises(ToolCallError) as caught:
        made(recipe, **args)
    return caught.value.message


def test_parameters_go_where_they_belong() -> None:
    found = made("user", name="a/b ?#%", tags=["x", 1], full=True, **{"X-Trace": "1"})
    assert found.method == "GET"
    assert found.url == "http://host/v1/users/a%2Fb%20%3F%23%25/files/index.json"
    assert found.query == (("page", "1"), ("tags", "x"), ("tags", "1"), ("full", "true"))
    assert found.headers == {"Authorization": "Bearer abc", "X-Fixed": "f", "X-Trace": "1"}
    assert found.body is None


def test_data_of_a_post_are_json() -> None:
    found = made("create", user={"name": "é", "n": [1, None]}, dry=False)
    assert json.loads(found.body or b"") == {"user": {"name": "é", "n": [1, None]}}
    assert found.query == (("dry", "false"),)
    assert found.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("recipe", "args", "says"),
    [
        ("user", {}, "api.user: Required parameter 'name' is missing"),
        ("user", {"name": "x", "q": 1}, "api.user has no parameter 'q'. Known: name, file, page"),
        ("user", {"name": "x", "page": True}, "page must be an integer, not bool"),
        ("user", {"name": ""}, "name is empty"),
        ("user", {"name": ".."}, "'..' cannot be a part of a path"),
        ("user", {"name": "."}, "'.' cannot be a part of a path"),
        ("user", {"name": "x", "X-Trace": "a\r\nX-Admin: 1"}, "X-Trace holds characters that headers cannot have"),
        ("user", {"name": "x", "X-Trace": "é"}, "X-Trace holds characters that headers cannot have"),
        ("user", {"name": "x", "Authorization": "y"}, "has no parameter 'Authorization'"),
        ("create", {"user": {"x": {1}}}, "the body is no JSON"),
        ("create", {"user": {"x": float("nan")}}, "the body is no JSON"),
        ("create", {"user": {"x": "\ud800"}}, "the body is no JSON"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(recipe: str, args: dict[str, Any], says: str) -> None:
    assert says in refused(recipe, **args)


def test_the_tool_itself_is_its_only_endpoint_or_the_one_called_as_it() -> None:
    with pytest.raises(ToolNotFoundError, match=r"Unknown recipe: api.api. Available: user, create"):
        made(None)
    with pytest.raises(ToolNotFoundError, match=r"Unknown recipe: api.nothing"):
        made("nothing")
    only = http("name: t\ntype: http\nbase_url: http://h\nendpoints: {one: {path: /1}}")
    assert request(only, None, {}).url == "http://h/1"
    named = http("name: t\ntype: http\nbase_url: http://h\nendpoints: {one: {path: /1}, t: {path: /t}}")
    assert request(named, None, {}).url == "http://h/t"


def test_what_is_fixed_of_the_headers_is_not_seen_from_outside() -> None:
    told = json.dumps(outline(_DEFINITION).as_data())
    assert "abc" not in told
    assert "Authorization" not in told
    assert [each["name"] for each in outline(_DEFINITION).as_data()["callables"]] == ["user", "create"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20))
def test_a_value_never_leaves_its_part_of_the_path(value: str) -> None:
    try:
        found = made("user", name=value, file=value)
    except ToolCallError:
        assert value in (".", "..")
        return
    # As it is sent, after what the client makes of it.
    sent = httpx.URL(found.url)
    segments = sent.raw_path.decode().split("/")
    assert segments[:3] == ["", "v1", "users"]
    assert unquote(segments[3]) == value
    assert unquote(segments[5]) == f"{value}.json"
    assert len(segments) == 6


@pytest.mark.parametrize(
    ("content", "type_", "charset", "value"),
    [
        (b'{"a": [1, null]}', "application/json; charset=utf-8", "utf-8", {"a": [1, None]}),
        (b"[1]", "application/problem+json", None, [1]),
        (b"[1]", "text/plain", None, "[1]"),
        (b"[1", "application/json", None, "[1"),
        (b"[" * 100_000, "application/json", None, "[" * 100_000),
        (b"\xe9", "text/plain; charset=latin-1", "latin-1", "é"),
        (b"\xe9", "text/plain", None, b"\xe9"),
        (b"x", "text/plain; charset=nonsense", "nonsense", b"x"),
        (b"", "", None, ""),
    ],
)
def test_an_answer_is_data_or_text_or_bytes(content: bytes, type_: str, charset: str | None, value: object) -> None:
    assert data(content, type_, charset) == value


def test_secrets_are_taken_out_of_messages() -> None:
    redaction = Redaction({"Authorization": "Bearer abcdef", "Accept": "application/json", "X-Key": "k" * 10})
    assert redaction.apply("Bearer abcdef, abcdef, application/json") == "***, ***, application/json"
    assert "kk" not in redaction.apply("some text" + "k" * 9, cut=True)
