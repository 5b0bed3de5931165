"""HTTP interfaces as tools, against a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from tests.integration.codemode.http_server import Answer, Asked, HttpServer, serving
from tests.integration.codemode.tool_sets import open_descriptors, opened

from cellyard.codemode.errors import SessionClosed, ToolCallError, ToolTimeoutError
from cellyard.codemode.tools import ToolCall

TOKEN = "t0k3n-that-nobody-may-see"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CY_TEST_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def api(server: HttpServer, timeout: float = 60) -> str:
    return f"""
name: api
type: http
base_url: {server.url}/v1
timeout: {timeout}
headers:
  Authorization: Bearer ${{CY_TEST_TOKEN}}
tags: [web]
endpoints:
  item:
    description: one item
    path: /items/{{id}}
    params:
      id: {{}}
      q: {{type: array}}
      X-Trace: {{in: header}}
  add:
    method: POST
    path: /items
    params:
      name: {{required: true}}
      tags: {{type: array}}
      notify: {{in: query, type: boolean, default: false}}
"""


def item(**args: object) -> ToolCall:
    return ToolCall("api", "item", {"id": "1", **args})


async def failure(answer: Answer) -> str:
    with serving(lambda asked: answer) as server:
        async with opened(api(server)) as tools:
            with pytest.raises(ToolCallError) as caught:
                await tools.call(item())
    assert TOKEN not in str(caught.value)
    return caught.value.message


async def test_values_arrive_as_they_were_given() -> None:
    value = "a/b?c#d%2F é&=+;"
    with serving(lambda asked: Answer(content=b"{}", headers=(("Content-Type", "application/json"),))) as server:
        async with opened(api(server)) as tools:
            assert not tools.problems
            assert await tools.call(item(id=value, q=[value, 2], **{"X-Trace": "t"})) == {}
            await tools.call(ToolCall("api", "add", {"name": value, "tags": ["x", 1]}))
            told = json.dumps(await tools.list())
        got, posted = server.asked
    address = urlsplit(got.path)
    assert [unquote(part) for part in address.path.split("/")] == ["", "v1", "items", value]
    assert parse_qs(address.query) == {"q": [value, "2"]}
    assert (got.headers["Authorization"], got.headers["X-Trace"]) == (f"Bearer {TOKEN}", "t")
    assert (posted.method, posted.path) == ("POST", "/v1/items?notify=false")
    assert json.loads(posted.body) == {"name": value, "tags": ["x", 1]}
    assert posted.headers["Content-Type"] == "application/json"
    assert TOKEN not in told


@pytest.mark.parametrize(
    ("content", "type_", "value"),
    [
        (b'{"a": [1.5, null]}', "application/json", {"a": [1.5, None]}),
        ("é".encode(), "text/plain; charset=utf-8", "é"),
        (b"\x89PNG\xff", "image/png", b"\x89PNG\xff"),
        (b"", "", ""),
    ],
)
async def test_answers_are_data_text_or_bytes(content: bytes, type_: str, value: object) -> None:
    with serving(lambda asked: Answer(content=content, headers=(("Content-Type", type_),))) as server:
        async with opened(api(server)) as tools:
            assert await tools.call(item()) == value


async def test_a_status_of_400_and_above_is_an_error_with_the_beginning_of_the_answer() -> None:
    message = await failure(Answer(404, b"no such item " + b"x" * 100_000))
    assert message.startswith("Tool 'api' failed: HTTP 404: no such item xxx")
    assert len(message) < 3000
    assert await failure(Answer(500)) == "Tool 'api' failed: HTTP 500"


async def test_an_answer_that_repeats_secrets_does_not_make_them_known() -> None:
    def respond(asked: Asked) -> Answer:
        return Answer(401, f"bad header {asked.headers['Authorization']}".encode())

    with serving(respond) as server:
        async with opened(api(server)) as tools:
            with pytest.raises(ToolCallError, match=r"HTTP 401: bad header \*\*\*"):
                await tools.call(item())


async def test_an_answer_without_an_end_is_cut() -> None:
    assert "longer than 10 MiB" in await failure(Answer(content=b"x" * 65536, forever=True))
    assert "HTTP 500: xxx" in await failure(Answer(500, content=b"x" * 65536, forever=True))


async def test_an_answer_that_unpacks_to_too_much_is_cut() -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    assert "longer than 10 MiB" in await failure(Answer(content=packed, headers=(("Content-Encoding", "gzip"),)))
    assert "DecodingError" in await failure(Answer(content=b"no gzip", headers=(("Content-Encoding", "gzip"),)))


async def test_redirects_are_followed_where_they_stay_on_their_server() -> None:
    def respond(asked: Asked) -> Answer:
        if asked.path == "/there":
            return Answer(content=asked.headers["Authorization"].encode())
        return Answer(302, headers=(("Location", "/there"),))

    with serving(respond) as server:
        async with opened(api(server)) as tools:
            assert await tools.call(item()) == f"Bearer {TOKEN}"


async def test_redirects_elsewhere_are_errors_and_nothing_is_sent_there() -> None:
    with serving(lambda asked: Answer()) as elsewhere:
        message = await failure(Answer(307, headers=(("Location", f"{elsewhere.url}/x"),)))
        assert f"it redirects to {elsewhere.url}, which is elsewhere" in message
        assert elsewhere.asked == []
    assert "redirects more than 5 times" in await failure(Answer(302, headers=(("Location", "/again"),)))
    assert "elsewhere" in await failure(Answer(302, headers=(("Location", "file:///etc/passwd"),)))


async def test_cookies_do_not_pass_from_call_to_call() -> None:
    with serving(lambda asked: Answer(headers=(("Set-Cookie", "a=b; Path=/"),))) as server:
        async with opened(api(server)) as tools:
            await tools.call(item())
            await tools.call(item())
        assert all("Cookie" not in asked.headers for asked in server.asked)


async def test_a_server_that_does_not_answer_costs_a_call_its_time_and_no_more() -> None:
    answer = threading.Event()
    with serving(lambda asked: Answer(until=answer)) as server:
        async with opened(api(server, timeout=0.3)) as tools:
            with pytest.raises(ToolTimeoutError, match=r"Tool 'api' timed out after 0.3s"):
                await tools.call(item())
        answer.set()


async def test_nobody_who_listens_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        text = (
            f"name: a\ntype: http\nbase_url: http://127.0.0.1:{taken.getsockname()[1]}\nendpoints: {{g: {{path: /}}}}"
        )
        async with opened(text) as tools:
            with pytest.raises(ToolCallError, match="Tool 'a' failed: ConnectError"):
                await tools.call(ToolCall("a"))


async def test_many_calls_at_once_and_closing_leave_nothing_open() -> None:
    def respond(asked: Asked) -> Answer:
        return Answer(content=asked.path.encode())

    with serving(respond) as server:
        before = open_descriptors()
        async with opened(api(server)) as tools:
            results = await asyncio.gather(*(tools.call(item(id=str(n))) for n in range(30)))
            assert results == [f"/v1/items/{n}" for n in range(30)]
        mine = {each.partition(" ")[0] for each in open_descriptors() - before}
        # The server's side of connections may be there for a moment longer.
        assert all(not _is_client(int(number), server) for number in mine)


def _is_client(number: int, server: HttpServer) -> bool:
    with socket.socket(fileno=number) as found:
        try:
            return found.getpeername()[1] == urlsplit(server.url).port
        except OSError:
            return False
        finally:
            found.detach()


async def test_closing_ends_a_call() -> None:
    reached, answer = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def respond(asked: Asked) -> Answer:
        loop.call_soon_threadsafe(reached.set)
        return Answer(until=answer)

    with serving(respond) as server:
        async with opened(api(server)) as tools:
            call = asyncio.create_task(tools.call(item()))
            await reached.wait()
            await tools.close()
            with pytest.raises(SessionClosed):
                await call
        answer.set()
