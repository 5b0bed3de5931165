"""MCP servers as tools: real ones of the official library, and one that misbehaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.codemode.http_server import Answer, serving
from tests.integration.codemode.tool_sets import gone, next_line, open_descriptors, opened, stored

from cellyard.codemode.errors import (
    SessionClosed,
    ToolCallError,
    ToolNotFoundError,
    ToolTimeoutError,
)
from cellyard.codemode.tools import ToolCall, ToolSet, mcp_connection, mcp_stdio

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def local(**more: Any) -> str:
    command = {"command": sys.executable, "args": [str(HERE / "mcp_server.py"), "stdio"]}
    return json.dumps({"name": "server", "type": "mcp", **command, **more})


def rogue(fault: str, folder: Path, **more: Any) -> str:
    command = {"command": sys.executable, "args": ["-I", str(HERE / "rogue_mcp_server.py"), fault, str(folder)]}
    return json.dumps({"name": "server", "type": "mcp", **command, **more})


def call(recipe: str, **args: Any) -> ToolCall:
    return ToolCall("server", recipe, args)


async def pid_of(tools: ToolSet) -> int:
    return int(await tools.call(call("pid")))


def pids(folder: Path) -> list[int]:
    """Of the servers that began."""
    told = folder / "told"
    return [int(line) for line in (told.read_text() if told.exists() else "").splitlines() if line.isdigit()]


@contextmanager
def remote(kind: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server over HTTP, and its address."""
    process = subprocess.Popen([sys.executable, str(HERE / "mcp_server.py"), kind], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield process, f"http://127.0.0.1:{port}/{'sse' if kind == 'sse' else 'mcp'}"
    finally:
        process.kill()
        process.communicate()


async def check_what_is_offered(tools: ToolSet) -> None:
    assert not tools.problems
    assert (await tools.names())["server"] == [
        "add", "get_thing_v2", "search", "fail", "picture", "pid", "child", "crash", "hang", "header",
    ]  # fmt: skip
    [told] = await tools.list()
    assert told["description"].startswith("add: Adds two numbers.; get_thing_v2: Gets a thing.; ")
    assert told["callables"][0]["parameters"] == [
        {"name": "a", "type": "integer", "required": True, "default": None, "description": ""},
        {"name": "b", "type": "integer", "required": False, "default": 1, "description": ""},
    ]
    assert await tools.call(call("add", a=2)) == "3"
    assert await tools.call(call("get_thing_v2", name="a")) == "a\nthing"
    assert await tools.call(call("search", query="x")) == "found x"
    assert await tools.call(call("picture")) == [{"type": "image", "data": b"\x00\x01", "mime_type": "image/png"}]
    assert await asyncio.gather(*(tools.call(call("add", a=n)) for n in range(20))) == [str(n + 1) for n in range(20)]
    for recipe, args, says in [
        ("fail", {}, "it cannot be done"),
        ("add", {}, "Required parameter 'a' is missing"),
        ("add", {"a": 1, "c": 2}, "server.add has no parameter 'c'. Known: a, b"),
        ("add", {"a": "x"}, "Tool 'server' failed: "),
    ]:
        with pytest.raises(ToolCallError) as caught:
            await tools.call(call(recipe, **args))
        assert says in caught.value.message
    with pytest.raises(ToolNotFoundError, match=r"Unknown recipe: server.nothing. Available: add, "):
        await tools.call(call("nothing"))


async def test_a_server_over_stdio_is_one_process_for_all_calls_and_gone_at_the_end() -> None:
    before = open_descriptors()
    async with opened(local()) as tools:
        await check_what_is_offered(tools)
        pid = await pid_of(tools)
        assert await pid_of(tools) == pid
        child = int(await tools.call(call("child")))
    assert await gone(pid)
    assert await gone(child)
    assert open_descriptors() <= before


async def test_a_server_over_streamable_http() -> None:
    with remote("http") as (_, url):
        async with opened(
            json.dumps(
                {"name": "server", "type": "mcp", "transport": "http", "url": url, "headers": {"Authorization": "me"}}
            )
        ) as tools:
            await check_what_is_offered(tools)
            assert await tools.call(call("header")) == "me"


async def test_a_server_over_the_older_transport() -> None:
    with remote("sse") as (_, url):
        async with opened(json.dumps({"name": "server", "type": "mcp", "transport": "sse", "url": url})) as tools:
            await check_what_is_offered(tools)


async def test_after_a_crash_the_call_fails_and_the_next_one_has_a_new_server() -> None:
    async with opened(local()) as tools:
        first = await pid_of(tools)
        with pytest.raises(ToolCallError, match=r"(?s)the connection broke; .*last words"):
            await tools.call(call("crash"))
        assert await gone(first)
        second = await pid_of(tools)
        assert second != first
        os.kill(second, signal.SIGKILL)
        assert await gone(second)
        # Whoever calls before the death was noticed hears of it.
        for _ in range(2):
            try:
                third = await pid_of(tools)
                break
            except ToolCallError as failure:
                assert "the connection broke" in failure.message  # noqa: PT017
        assert third not in (first, second)
    assert await gone(third)


async def test_a_server_over_http_that_goes_away_is_an_error_and_may_come_back() -> None:
    with remote("http") as (process, url):
        async with opened(json.dumps({"name": "server", "type": "mcp", "transport": "http", "url": url})) as tools:
            await pid_of(tools)
            process.kill()
            assert await gone(process.pid)
            for _ in range(2):
                with pytest.raises(ToolCallError, match="Tool 'server' failed: "):
                    await pid_of(tools)


async def test_a_caller_that_is_cancelled_has_the_server_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.ended")
    async with opened(local()) as tools:
        pid = await pid_of(tools)
        waiting = asyncio.create_task(tools.call(call("hang", pipe=str(tmp_path / "pipe"))))
        assert await next_line(tmp_path / "pipe") == "hangs"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await next_line(tmp_path / "pipe.ended") == "cancelled"
        assert await pid_of(tools) == pid


async def test_closing_ends_calls_and_servers(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with opened(local()) as tools:
        pid = await pid_of(tools)
        waiting = asyncio.create_task(tools.call(call("hang", pipe=str(tmp_path / "pipe"))))
        assert await next_line(tmp_path / "pipe") == "hangs"
        await tools.close()
        with pytest.raises(SessionClosed):
            await waiting
        assert await gone(pid)


async def test_closing_that_is_cancelled_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stays after the end of its input is given time; nobody waits for that any more."""
    monkeypatch.setattr(mcp_stdio, "GRACE", 60)
    monkeypatch.setattr(mcp_connection, "_END", 60)
    os.mkfifo(tmp_path / "left")
    before = open_descriptors()
    tools = ToolSet([stored(rogue("stays", tmp_path))])
    pid = int(await tools.call(call("go")))
    closing = asyncio.create_task(tools.close())
    assert await next_line(tmp_path / "left") == "left"
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not os.path.exists(f"/proc/{pid}")  # noqa: ASYNC240 (reaped, too)
    assert open_descriptors() <= before


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "told")
    before = open_descriptors()
    tools = ToolSet([stored(rogue("silent", tmp_path))])
    starting = asyncio.create_task(tools.start())
    pid = int(await next_line(tmp_path / "told"))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await gone(pid)
    await tools.close()
    assert open_descriptors() <= before


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("dead", "cannot even start"),
        ("silent", "it did not answer within 3 s"),
        ("endless line", "it wrote a line longer than 16 MiB"),
        ("endless list", "it offers more than 1000 tools"),
        ("bad list", "its answer is none that the protocol has"),
    ],
)
async def test_a_server_that_cannot_be_connected_is_a_problem_and_others_stay(
    fault: str, says: str, tmp_path: Path
) -> None:
    timeout = 3 if fault == "silent" else 30
    async with opened(rogue(fault, tmp_path, timeout=timeout), "name: 'true'") as tools:
        [problem] = tools.problems
        assert str(problem).startswith("tools/t0.yaml:1: server: ")
        assert says in str(problem)
        assert await tools.names() == {"server": None, "true": []}
        assert await tools.call(ToolCall("true")) == ""
        if fault == "dead":
            with pytest.raises(ToolCallError, match="cannot even start"):
                await tools.call(call("go"))
    for pid in pids(tmp_path):
        assert await gone(pid)


@pytest.mark.parametrize("fault", ["garbage", "complains", "other number"])
async def test_noise_beside_the_protocol_does_no_harm(fault: str, tmp_path: Path) -> None:
    async with opened(rogue(fault, tmp_path)) as tools:
        assert not tools.problems
        said = await tools.call(call("go"))
        assert said == "right" if fault == "other number" else int(said) in pids(tmp_path)
    for pid in pids(tmp_path):
        assert await gone(pid)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("nonsense", "the server's answer is none that the protocol has"),
        ("refuses", "not you"),
        ("closes output", "the connection broke; it has ended, or closed its output"),
        ("huge", "the connection broke; it wrote a line longer than 16 MiB"),
    ],
)
async def test_a_bad_answer_is_an_error(fault: str, says: str, tmp_path: Path) -> None:
    async with opened(rogue(fault, tmp_path)) as tools:
        for _ in range(2):
            with pytest.raises(ToolCallError) as caught:
                await tools.call(call("go", a=1))
            assert says in caught.value.message
    for pid in pids(tmp_path):
        assert await gone(pid)


async def test_a_server_that_does_not_answer_costs_a_call_its_time_and_is_begun_anew(tmp_path: Path) -> None:
    # A busy machine may need longer to start the server at all.
    for limit in (2, 8, 25):
        begun = len(pids(tmp_path))
        async with opened(rogue("hangs", tmp_path, timeout=limit)) as tools:
            with pytest.raises(ToolTimeoutError, match=f"Tool 'server' timed out after {limit}s"):
                await tools.call(call("go"))
            with pytest.raises(ToolTimeoutError):
                await tools.call(call("go"))
        if not tools.problems and len(pids(tmp_path)) == begun + 2:
            break
    else:
        raise AssertionError("no second server was begun")
    for pid in pids(tmp_path):
        assert await gone(pid)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(401, b"no"), "HTTP 401"),
        (Answer(404, b"no"), "Session terminated"),
        (Answer(content=b"[" * 10_000, headers=(("Content-Type", "application/json"),)), "it did not answer"),
        (Answer(content=b"x", headers=(("Content-Type", "text/html"),)), "it did not answer"),
        (Answer(content=b"x" * 65536, headers=(("Content-Type", "application/json"),), forever=True), "not answer"),
        (Answer(content=b"x" * 65536, headers=(("Content-Type", "text/event-stream"),), forever=True), "not answer"),
        (Answer(content=b"", headers=(("Content-Encoding", "gzip"),)), "the answer is compressed"),
        (Answer(307, headers=(("Location", "http://host.invalid/"),)), "HTTP 307"),
    ],
)
async def test_what_is_no_server_at_all_is_a_problem(answer: Answer, says: str) -> None:
    with serving(lambda asked: answer) as server:
        definition: dict[str, Any] = {"name": "server", "type": "mcp", "transport": "http"}
        definition |= {"url": f"{server.url}/mcp", "timeout": 3 if "not answer" in says else 30}
        async with opened(json.dumps({**definition, "headers": {"Authorization": "Bearer s3cr3t"}})) as tools:
            [problem] = tools.problems
            assert says in str(problem)
            assert "s3cr3t" not in str(problem)


async def test_a_server_over_http_that_never_answers_is_a_problem() -> None:
    answer = threading.Event()
    with serving(lambda asked: Answer(until=answer)) as server:
        for transport in ("http", "sse"):
            definition = {"name": "server", "type": "mcp", "transport": transport, "url": server.url, "timeout": 0.5}
            async with opened(json.dumps(definition)) as tools:
                assert "it did not answer within 0.5 s" in str(tools.problems[0])
        answer.set()


async def test_tools_that_cannot_be_told_apart_are_a_problem_and_the_others_stay(tmp_path: Path) -> None:
    async with opened(rogue("names", tmp_path)) as tools:
        assert [str(each) for each in tools.problems] == [
            "tools/t0.yaml:1: server: its tool 'a.b' is left out: 'a-b' is called a_b already"
        ]
        assert await tools.names() == {"server": ["a_b", "class_", "ok"]}
        assert (await tools.call(call("a_b", anything=1))).isdigit()
