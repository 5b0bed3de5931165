"""A controller that is told to stop: what clients and health checks see, and what comes to its end."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.controller_process import Process

import cellyard
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ke
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard
from .test_access import reason

WITHIN = 60.0
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
HTTP: dict[str, Any] = {"http": {"listen": "127.0.0.1:0"}}


async def begun(stubs: Stubs, source: str, notebook: str = "nb") -> tuple[str, AsyncIterator[ex.ExecutionEvent]]:
    """An execution that has started, and the rest of its stream."""
    events = stubs.start(notebook, source)
    execution_id = ""
    async for event in events:
        if event.WhichOneof("event") == "accepted":
            execution_id = event.accepted.execution_id
        if event.WhichOneof("event") == "started":
            break
    return execution_id, events


async def end_of(events: AsyncIterator[ex.ExecutionEvent]) -> ex.Finished:
    *_, last = [event async for event in events]
    return last.finished


async def ready(yard: Yard) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"{yard.controller.http_address}/readyz") as answer:
        return answer.status, (await answer.text()).strip()


async def until_ready(yard: Yard) -> None:
    async with asyncio.timeout(WITHIN):
        while (await ready(yard))[0] != 200:  # noqa: ASYNC110 - over HTTP there is no event
            await asyncio.sleep(0.02)


async def test_while_it_drains_what_was_accepted_ends_and_nothing_new_begins(yard: Yard) -> None:
    stubs = await yard.start(drain_timeout=WITHIN, **HTTP)
    health = health_pb2_grpc.HealthStub(stubs.channel)
    names = ("", "cellyard.v1.Executions", "cellyard.v1.Notebooks")

    async def statuses() -> set[int]:
        return {(await health.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names}

    assert await statuses() == {SERVING}
    _, events = await begun(stubs, "gate open\nvalue 1")
    behind = await stubs.executions.Enqueue(
        ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="behind", source="value 2"))
    )
    draining = asyncio.ensure_future(yard.controller.drain())
    async with asyncio.timeout(WITHIN):
        for name in names:  # as a load balancer hears it
            watching = health.Watch(health_pb2.HealthCheckRequest(service=name))
            async for heard in watching:
                if heard.status == NOT_SERVING:
                    break
            watching.cancel()
    assert await statuses() == {NOT_SERVING}
    assert await ready(yard) == (503, "the controller is draining")
    new = ex.Start(notebook_id="new", source=ex.NewCell(cell_id="c", source="value 3"))
    for refused in (stubs.executions.Enqueue(new), stubs.kernels.Start(ke.StartKernel(notebook_id="new")).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (reason(caught.value), "draining" in (caught.value.details() or "")) == ("CONTROLLER_UNAVAILABLE", True)
    cell = nb.CreateCellRequest(notebook_id="nb", cell_id="note", source="written meanwhile")
    assert (await stubs.notebooks.CreateCell(cell)).source == "written meanwhile"  # a document is on disk at once
    assert not draining.done()
    yard.runtime.open("open")
    assert (await end_of(events)).end == ex.EXECUTION_END_SUCCEEDED
    follow = stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=behind.execution_id))
    assert (await end_of(follow)).value.json == "2"
    await asyncio.wait_for(draining, WITHIN)


async def test_what_takes_longer_than_the_drain_ends_lost_and_its_client_hears_it(yard: Yard) -> None:
    stubs = await yard.start(drain_timeout=0.2)
    _, events = await begun(stubs, "hang")
    ended = asyncio.ensure_future(end_of(events))
    await yard.controller.drain()
    assert not ended.done()
    controller, channel = yard._running.pop()
    await controller.stop()
    finished = await asyncio.wait_for(ended, WITHIN)
    assert (finished.end, finished.end_reason) == (ex.EXECUTION_END_LOST, "shutdown")
    await channel.close()


async def test_sandboxes_that_are_kept_are_not_waited_for(yard: Yard, runtime: Any) -> None:
    stubs = await yard.start(on_stop="keep", drain_timeout=10 * WITHIN)
    execution_id, _ = await begun(stubs, "gate open\nvalue 1")
    await asyncio.wait_for(yard.controller.drain(), WITHIN)
    await yard.stop()
    stubs = await yard.start()
    runtime.open("open")
    again = stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=execution_id))
    assert (await end_of(again)).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_store_that_takes_no_writes_is_not_ready_until_it_does(yard: Yard) -> None:
    stubs = await yard.start(**HTTP)
    await until_ready(yard)
    store, side = yard.controller._store, yard.controller._http
    assert side is not None
    assert side._standing is not None
    assert side._asking is not None
    side._asking.cancel()  # it would try again every ten seconds: here the test says when
    pages = await store.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    await store.write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())
    large = nb.CreateCellRequest(notebook_id="nb", cell_id="c", source=random.Random(1).randbytes(500_000).hex())
    with pytest.raises(grpc.aio.AioRpcError, match="full"):
        await stubs.notebooks.CreateCell(large)
    assert await ready(yard) == (503, "the store does not take writes")
    await side._standing._try_store()
    assert (await ready(yard))[0] == 200


@pytest.fixture
def manager(folder: Path) -> Iterator[socket.socket]:
    """What a service manager hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(folder / "n.sock"))
        heard.settimeout(WITHIN)
        yield heard


def test_a_service_manager_is_told_and_a_running_cell_ends_before_the_process(
    folder: Path, manager: socket.socket
) -> None:
    process = Process(folder)
    env = {"NOTIFY_SOCKET": str(folder / "n.sock"), "CELLYARD_DRAIN_TIMEOUT": str(WITHIN)}
    process.start("--runtime", "process", env=env)
    try:
        assert manager.recv(4096).splitlines()[0] == b"READY=1"
        with cellyard.Session(endpoint=process.endpoint, runtime="process") as session:
            session.start_kernel()
            started, results = threading.Event(), []

            def run() -> None:
                source = (
                    "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n42"
                )
                results.append(session.run(source, on_output=lambda _: started.set()))

            running = threading.Thread(target=run)
            running.start()
            assert started.wait(WITHIN)
            assert process.process is not None
            process.process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).splitlines()[0] == b"STOPPING=1"
            session.upload(b"", "go")
            running.join(WITHIN)
            assert [result.value for result in results] == [42]
        assert process.process.wait(WITHIN) == 0
    finally:
        process.close()


def test_a_second_signal_stops_at_once(folder: Path, manager: socket.socket) -> None:
    process = Process(folder)
    env = {"NOTIFY_SOCKET": str(folder / "n.sock"), "CELLYARD_DRAIN_TIMEOUT": "3600"}
    process.start("--runtime", "process", env=env)
    manager.recv(4096)
    session = cellyard.Session(endpoint=process.endpoint, runtime="process")
    try:
        session.connect()
        session.queue_cell(session.create_cell("while True: pass"))
        assert process.process is not None
        process.process.send_signal(signal.SIGTERM)
        assert manager.recv(4096).splitlines()[0] == b"STOPPING=1"
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(WITHIN) == 1
    finally:
        process.close()
