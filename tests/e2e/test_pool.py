"""Warm sandboxes, as users have them: real containers, and an engine that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cellyard
from tests.chaos.engine_proxy import EngineProxy
from tests.controller_process import Process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # several controllers, one after the other

WAIT_S = 100.0


def until(controller: Process, condition: Callable[[dict[str, cellyard.SandboxInfo]], bool]) -> None:
    """Waits for what the controller says of its sandboxes."""
    known: dict[str, cellyard.SandboxInfo] = {}
    client = cellyard.Client(controller.endpoint)
    late = threading.Timer(WAIT_S, client.close)
    late.start()
    try:
        for sandbox in client.watch_sandboxes():
            known[sandbox.sandbox_id] = sandbox
            if condition(known):
                return
    finally:
        late.cancel()
        client.close()


def warm(count: int) -> Callable[[dict[str, cellyard.SandboxInfo]], bool]:
    """That so many wait for a claim."""
    return lambda known: sum(each.state == "warm" for each in known.values()) == count


def containers(controller: Process) -> set[str]:
    """Of all sandboxes that there are."""
    return {each.container_id or "" for each in cellyard.Client(controller.endpoint).list_sandboxes()}


@pytest.fixture
def engine(folder: Path) -> Iterator[EngineProxy]:
    """The engine behind a socket that can hang."""
    with EngineProxy(folder / "e.sock").running() as proxy:
        yield proxy


@pytest.fixture
def pooled(built_image: str, folder: Path, engine: EngineProxy) -> Iterator[Process]:
    """A controller with two warm sandboxes."""
    process = Process(folder, engine=engine.address)
    process.start("--pool", "2")
    until(process, warm(2))
    yield process
    engine.resume()
    process.close()


def test_a_warm_kernel_is_had_while_the_engine_hangs_and_is_like_any_other(
    pooled: Process, engine: EngineProxy
) -> None:
    before = {container.id for container in pooled.containers()}
    engine.hang()
    with cellyard.Session(endpoint=pooled.endpoint, env={"GREETING": "hello"}) as session:
        seen = session.run(
            "import os, subprocess\n"
            "subprocess.run(['sh', '-c', 'echo $GREETING'], check=True)\n"
            "os.environ['GREETING'], os.getpid()"
        )
        assert seen.value[0] == "hello"
        assert seen.stdout == "hello\n"
        assert seen.execution_count == 1
        (mine,) = [each for each in cellyard.Client(pooled.endpoint).list_sandboxes() if each.notebook_id]
        assert mine.container_id in before, "no container was started for it"
        session.restart_kernel()
        assert session.run("import os\nos.environ['GREETING']").value == "hello"
        with cellyard.Session(endpoint=pooled.endpoint) as other:
            assert session.supports("container_isolation"), "what was proven stays so"
            assert other.run("import os\nos.environ.get('GREETING')").value is None
        engine.resume()
    until(pooled, warm(2))


def test_a_pool_is_replaced_when_it_is_old_and_leaves_nothing(built_image: str, folder: Path) -> None:
    process = Process(folder)
    pool = {"CELLYARD_POOL__SIZE": "1", "CELLYARD_POOL__MAX_AGE": "0.5", "CELLYARD_POOL__REVIEW_INTERVAL": "0.2"}
    process.start(env=pool)
    try:
        until(process, lambda known: sum(each.state == "ended" for each in known.values()) >= 2)
        (status,) = cellyard.Client(process.endpoint).list_pools()
        assert (status.template, status.target, status.failures) == ("default", 1, 0)
        assert process.stop() == 0
        assert process.containers() == []
    finally:
        process.close()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_warm_sandboxes_outlive_their_controller_and_serve_under_the_next_one(
    built_image: str, folder: Path, engine: EngineProxy, end: str
) -> None:
    process = Process(folder, engine=engine.address)
    flags = ("--pool", "2", "--on-stop", "keep")
    process.start(*flags)
    try:
        until(process, warm(2))
        before = containers(process)
        if end == "kill":
            process.kill()
        else:
            assert process.stop() == 0
        process.start(*flags)
        until(process, warm(2))
        assert containers(process) == before
        engine.hang()
        with cellyard.Session(endpoint=process.endpoint) as session:
            assert session.run("6 * 7").value == 42
            assert session.supports("container_isolation")
            (mine,) = [each for each in cellyard.Client(process.endpoint).list_sandboxes() if each.notebook_id]
            assert mine.container_id in before, "no container was started for it"
            engine.resume()
        until(process, warm(2))
    finally:
        engine.resume()
        process.close()


def test_whoever_was_evicted_goes_on_in_a_new_kernel_and_is_told(built_image: str, folder: Path) -> None:
    """Room for two, which one tenant has and does not use: another one's first cell gets one of them."""
    process = Process(folder)
    room = {"CELLYARD_CAPACITY__SANDBOXES": "2", "CELLYARD_SANDBOXES__EVICT_AFTER": "0.5"}
    process.start(env={**room, "CELLYARD_POOL__REVIEW_INTERVAL": "0.2"})
    try:
        admin = cellyard.Client(process.endpoint)
        anne, bert = (admin.create_tenant(name).token for name in ("anne", "bert"))
        first, second = (
            cellyard.Session(notebook_id=name, endpoint=process.endpoint, token=anne) for name in ("first", "second")
        )
        first.run("kept = 1")
        second.run("kept = 2")
        with cellyard.Session(notebook_id="new", endpoint=process.endpoint, token=bert) as newcomer:
            assert newcomer.run("6 * 7").value == 42
            assert second.run("kept").value == 2, "the one that was unused for longest had to go"
        events = list(first.stream_execute(code="'kept' in globals()"))
        (warning,) = [each for each in events if isinstance(each, cellyard.Warned)]
        assert (warning.kind, "evicted" in warning.message) == ("new_kernel", True)
        assert events[-1].result.value is False
    finally:
        process.close()


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("CELLYARD_POOL__SIZE", "100000", "configuration: the pools (pool.size,"),
        ("CELLYARD_POOL__SIZE", "-1", "pool.size"),
        ("CELLYARD_CAPACITY__MEMORY", "1000", "templates.default.memory"),
        ("CELLYARD_POOL__MAX", "1", "pool.max"),
        ("CELLYARD_POOL__COLOUR", "red", "pool.colour"),
    ],
)
def test_pools_that_cannot_be_are_refused_at_start(folder: Path, setting: str, value: str, why: str) -> None:
    process = Process(folder)
    with process.launch(env={"CELLYARD_POOL__SIZE": "2", setting: value}) as ready:
        assert ready.read() == b""
    assert process.process is not None
    assert process.process.wait(WAIT_S) == 2
    assert why in process.log.read_text()
