"""The wall clock is set an hour forward or back, or two days: nothing ends, waits or is forgotten for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cellyard_controller import upkeep
from cellyard_controller.clock import go_on, steady
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sessions_pb2 as se

from .conftest import Outliving, Stubs, Yard

HOUR, DAY = 3600.0, 86400.0
WITHIN = 60
Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jump]:
    """Sets the wall clock of this process forward (or back) by some seconds."""
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])

    def by(seconds: float) -> None:
        ahead[0] += seconds

    yield by
    monkeypatch.undo()
    go_on(None)


async def noticed(stubs: Stubs) -> None:
    """The room has looked at the time since."""
    await stubs.notebooks.SetMetadata(nb.SetMetadataRequest(notebook_id="nb", key="k", value=str(steady())))
    await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))


async def to_the_end(stream: Any) -> Any:
    """The end that an execution has."""
    async with asyncio.timeout(WITHIN):
        events = [event async for event in stream]
    return events[-1].finished


@pytest.mark.parametrize("by", [HOUR, -HOUR, 2 * DAY])
async def test_what_runs_and_what_waits_goes_on(yard: Yard, jump: Jump, by: float) -> None:
    """Within its timeout, its start_timeout, the kernel's idle_timeout and ttl, and its client's grace."""
    stubs = await yard.start(sessions={"grace": 30})
    limits = ker.KernelSettings(start_timeout_s=60, idle_timeout_s=60, ttl_s=600)
    session: dict[str, Any] = {"session_id": "s", "host_calls": ["f"]}
    held = stubs.sessions.Attach(se.AttachSession(notebook_id="nb", session_id="s"))
    await held.read()
    runs = aiter(stubs.start("nb", "gate g\nvalue 1", kernel=limits, timeout_s=600, **session))
    first = (await anext(runs)).accepted
    waits = aiter(stubs.start("nb", "value 2", kernel=limits))
    await anext(waits)
    await yard.runtime.reached("g")
    jump(by)
    await noticed(stubs)
    await upkeep.once(yard.controller._store, steady())
    kernel = await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))
    assert kernel.state == ker.KERNEL_STATE_BUSY
    assert abs(kernel.expires_at - time.time() - 600) < 100
    yard.runtime.open("g")
    assert (await to_the_end(runs)).end == ex.EXECUTION_END_SUCCEEDED
    assert (await to_the_end(waits)).end == ex.EXECUTION_END_SUCCEEDED
    await noticed(stubs)
    assert (await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))).state == ker.KERNEL_STATE_IDLE
    ended = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=first.execution_id))
    assert ended.accepted_at <= ended.started_at <= ended.ended_at
    held.cancel()


@pytest.mark.parametrize("by", [HOUR, -HOUR])
async def test_what_is_due_is_due_all_the_same(yard: Yard, jump: Jump, by: float) -> None:
    """A kernel that nobody uses ends by idle, and what cannot start in time is cancelled, as if nothing had been."""
    stubs = await yard.start()
    await stubs.run("nb", "value 1", kernel=ker.KernelSettings(idle_timeout_s=1))
    watched = stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"))
    jump(by)
    async with asyncio.timeout(WITHIN):
        async for event in watched:
            if event.HasField("kernel_changed") and event.kernel_changed.state == ker.KERNEL_STATE_DEAD:
                assert event.kernel_changed.end_reason == "idle"
                break
    late = ker.KernelSettings(start_timeout_s=1)
    stuck = stubs.start("nb", "gate never")
    await anext(aiter(stuck))
    waits = aiter(stubs.start("nb", "value 2", kernel=late))
    await anext(waits)
    jump(by)
    finished = await to_the_end(waits)
    assert (finished.end, finished.end_reason) == (ex.EXECUTION_END_CANCELLED, "start_timeout")
    stuck.cancel()


@pytest.mark.parametrize("by", [2 * DAY, -2 * DAY])
async def test_a_request_is_remembered_for_a_day_that_has_passed(yard: Yard, jump: Jump, by: float) -> None:
    stubs = await yard.start()
    create = nb.CreateCellRequest(notebook_id="nb", request_id="r", cell_id="c", source="x")
    await stubs.notebooks.CreateCell(create)
    jump(by)
    await upkeep.once(yard.controller._store, steady())
    await stubs.notebooks.DeleteCell(nb.DeleteCellRequest(notebook_id="nb", cell_id="c"))
    with pytest.raises(Exception, match="not found"):  # repeated, it makes no other cell
        await stubs.notebooks.CreateCell(create)
    await upkeep.once(yard.controller._store, steady() + DAY + HOUR)
    assert (await stubs.notebooks.CreateCell(create)).cell_id == "c"


@pytest.mark.parametrize("by", [HOUR, -HOUR, 2 * DAY])
async def test_what_is_stored_is_due_when_it_was_also_where_the_clock_was_set_while_no_controller_was_there(
    yard: Yard, runtime: Outliving, jump: Jump, by: float
) -> None:
    """Neither ttl, idle_timeout, timeout, start_timeout and grace are over at once, nor do any of them never end."""
    stubs = await yard.start(on_stop="keep", sessions={"grace": 30})
    limits = ker.KernelSettings(start_timeout_s=60, idle_timeout_s=60, ttl_s=600)
    runs = aiter(stubs.start("nb", "gate g\nvalue 1", kernel=limits, timeout_s=60))
    first = (await anext(runs)).accepted.execution_id
    waits = aiter(stubs.start("nb", "value 2", kernel=limits))
    second = (await anext(waits)).accepted.execution_id
    await runtime.reached("g")
    create = nb.CreateCellRequest(notebook_id="nb", request_id="r", cell_id="c", source="x")
    await stubs.notebooks.CreateCell(create)
    await stubs.run("short", "value 1", kernel=ker.KernelSettings(ttl_s=3))
    await yard.stop()
    jump(by)
    stubs = await yard.start(on_stop="keep", sessions={"grace": 30})
    watched = stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="short"))
    await upkeep.once(yard.controller._store, steady())
    kernel = await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))
    assert kernel.state == ker.KERNEL_STATE_BUSY
    assert abs(kernel.expires_at - time.time() - 600) < 100
    runtime.open("g")
    for execution_id in (first, second):
        request = ex.AttachExecution(notebook_id="nb", execution_id=execution_id)
        assert (await to_the_end(stubs.executions.Attach(request))).end == ex.EXECUTION_END_SUCCEEDED
    assert (await stubs.notebooks.CreateCell(create)).cell_id == "c", "what was asked for within a day is remembered"
    async with asyncio.timeout(WITHIN):
        while (await stubs.kernels.Get(ker.GetKernel(notebook_id="short"))).state == ker.KERNEL_STATE_IDLE:
            await anext(aiter(watched))
    assert (await stubs.kernels.Get(ker.GetKernel(notebook_id="short"))).end_reason == "ttl"


def test_the_clock_goes_on_until_the_machine_is_started_anew(jump: Jump) -> None:
    stored, before = go_on(None), steady()
    jump(HOUR)
    assert go_on(stored) == stored
    assert 0 <= steady() - before < 60
    another_boot = "0" * 8 + stored[8:]
    assert go_on(another_boot) not in (stored, another_boot)
    assert abs(steady() - time.time()) < 5


def test_the_controllers_own_clock_is_the_walls_until_that_jumps(jump: Jump) -> None:
    go_on(None)
    assert abs(steady() - time.time()) < 5
    before = steady()
    jump(HOUR)
    assert 0 <= steady() - before < 60
