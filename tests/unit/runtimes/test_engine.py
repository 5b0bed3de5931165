"""An engine that hangs, is away or is elsewhere: every call ends in time, and nothing else waits for it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from cellyard_controller.runtimes import RuntimeFailed, SandboxSpec, Template
from cellyard_controller.runtimes.docker import DockerRuntime
from cellyard_controller.runtimes.docker.engine import EngineCalls, engine_address

TEMPLATE = Template("default", "some:image")
VERSION = b'{"ApiVersion":"1.41","Version":"20.10.24"}'


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an engine that takes every connection and never says a word."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(64)
        yield path


@pytest.fixture
async def polite(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of an engine that tells its version, and nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(VERSION)}\r\n\r\n"
            writer.write(head.encode() + VERSION)
        writer.close()

    path = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(answer, str(path))
    yield path
    server.close()


@pytest.fixture
async def calls(polite: Path) -> AsyncIterator[EngineCalls]:
    made = EngineCalls(str(polite), at_once=1)
    yield made
    made.close()


@pytest.fixture
async def hung(silent: Path, tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime("controller-1", tmp_path, str, host=f"unix://{silent}")
    yield runtime
    await runtime.close()


async def longest_pause(until: asyncio.Future[Any]) -> float:
    """The longest time that the event loop was not free, in seconds."""
    longest, before = 0.0, time.monotonic()
    while not until.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    return longest


@pytest.mark.parametrize("host", ["tcp://10.0.0.5:2376", "ssh://me@elsewhere", "https://engine", "npipe://./pipe"])
def test_an_engine_elsewhere_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(RuntimeFailed, match="must share this machine's file system"):
        engine_address(host)


def test_the_engine_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    assert engine_address() == "/run/user/1000/docker.sock"
    monkeypatch.delenv("DOCKER_HOST")
    assert engine_address() == "/var/run/docker.sock"


async def test_every_call_to_an_engine_elsewhere_says_why(tmp_path: Path) -> None:
    runtime = DockerRuntime("controller-1", tmp_path, str, host="tcp://10.0.0.5:2375")
    ready = await runtime.readiness(TEMPLATE)
    assert not ready.ready
    assert "tcp://10.0.0.5:2375 is refused" in ready.reason
    assert not any(fact.granted for fact in await runtime.capabilities(TEMPLATE))
    with pytest.raises(RuntimeFailed, match="is refused"):
        await runtime.start(SandboxSpec("sb-1", "controller-1", TEMPLATE, tmp_path, 64_001))
    await runtime.close()


async def test_without_an_engine_readiness_says_what_to_do(tmp_path: Path) -> None:
    runtime = DockerRuntime("controller-1", tmp_path, str, host=f"unix://{tmp_path}/none.sock")
    ready = await runtime.readiness(TEMPLATE)
    assert not ready.ready
    assert "no container engine listens" in ready.reason
    assert "`make setup`" in ready.reason
    await runtime.close()


async def test_a_socket_that_nobody_serves_any_more_is_no_engine(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    runtime = DockerRuntime("controller-1", tmp_path, str, host=f"unix://{path}")
    assert "no container engine listens" in (await runtime.readiness(TEMPLATE)).reason
    await runtime.close()


async def test_readiness_of_a_hung_engine_takes_five_seconds_and_blocks_nobody(hung: DockerRuntime) -> None:
    started = time.monotonic()
    asked = [asyncio.ensure_future(hung.readiness(TEMPLATE)) for _ in range(3)]
    everything = asyncio.gather(*asked)
    pause = await longest_pause(everything)
    assert time.monotonic() - started < 6.0
    assert pause < 0.5
    for ready in await everything:
        assert not ready.ready
        assert "container engine" in ready.reason


async def test_a_hung_call_gives_its_turn_back_after_its_bound(silent: Path) -> None:
    calls = EngineCalls(str(silent), at_once=1)
    for _ in range(3):
        with pytest.raises(RuntimeFailed, match="did not answer within") as failure:
            await calls.call(APIClient.ping, bound=0.2)
        assert failure.value.reason == "runtime_lost"
    calls.close()


async def test_calls_beyond_the_number_allowed_wait_for_their_turn(calls: EngineCalls) -> None:
    at_work, most = 0, 0

    def work(_: APIClient) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.02)
        at_work -= 1

    await asyncio.gather(*(calls.call(work, bound=5) for _ in range(5)))
    assert most == 1


async def test_a_call_that_succeeds_after_its_bound_is_undone(calls: EngineCalls) -> None:
    may_go_on, undone = threading.Event(), threading.Event()

    def work(_: APIClient) -> str:
        may_go_on.wait(10)
        return "made"

    def undo(_: APIClient, made: str) -> None:
        assert made == "made"
        undone.set()

    with pytest.raises(RuntimeFailed):
        await calls.call(work, bound=0.1, undo=undo)
    assert not undone.is_set()
    may_go_on.set()
    assert await asyncio.to_thread(undone.wait, 5)


async def test_a_call_whose_caller_is_cancelled_is_undone(calls: EngineCalls) -> None:
    at_work, may_go_on, undone = threading.Event(), threading.Event(), threading.Event()

    def work(_: APIClient) -> str:
        at_work.set()
        may_go_on.wait(10)
        return "made"

    task = asyncio.create_task(calls.call(work, bound=10, undo=lambda _client, _made: undone.set()))
    assert await asyncio.to_thread(at_work.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_go_on.set()
    assert await asyncio.to_thread(undone.wait, 5)


async def test_a_result_that_nobody_takes_is_undone(calls: EngineCalls) -> None:
    made, undone = threading.Event(), threading.Event()

    def work(_: APIClient) -> str:
        made.set()
        return "made"

    await calls.call(lambda _: None, bound=5)  # so that a connection is there
    task = asyncio.create_task(calls.call(work, bound=10, undo=lambda _client, _made: undone.set()))
    await asyncio.sleep(0)  # the call is under way
    assert made.wait(5)
    time.sleep(0.05)  # noqa: ASYNC251  # the loop must not run: the result is there, and nobody has seen it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(undone.wait, 5)


async def test_an_error_of_the_work_reaches_the_caller(calls: EngineCalls) -> None:
    def work(_: APIClient) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await calls.call(work, bound=5)


def test_a_hung_call_does_not_keep_the_interpreter_from_ending(silent: Path) -> None:
    script = f"""
import asyncio
from docker import APIClient
from cellyard_controller.runtimes.docker.engine import EngineCalls

async def main():
    asyncio.create_task(EngineCalls({str(silent)!r}, at_once=2).call(APIClient.ping, bound=60))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    assert time.monotonic() - started < 10
