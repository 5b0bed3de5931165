"""A controller on what its predecessor left: sandboxes are attested again, a runtime that is silent is waited for."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from cellyard_controller.runtimes.fake import FakeRuntime
from cellyard_controller.sandboxes import reconciling, stock, supervisor
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_proto.v1 import executions_pb2 as ex

from .conftest import WITHIN, Outliving, Stubs, Yard, until

DEVIATION = "its memory.max is 9223372036854771712, not 1073741824"


async def begin(stubs: Stubs, source: str) -> str:
    """Starts a cell that waits at a gate; returns its execution."""
    stream = aiter(stubs.start("nb", source))
    return str((await anext(stream)).accepted.execution_id)


async def enqueue(stubs: Stubs, name: str, source: str) -> str:
    start = ex.Start(notebook_id="nb", request_id=name, source=ex.NewCell(cell_id=name, source=source))
    return str((await stubs.executions.Enqueue(start)).execution_id)


async def ended(stubs: Stubs, execution_id: str) -> ex.Execution:
    request = ex.AttachExecution(notebook_id="nb", execution_id=execution_id)
    async with asyncio.timeout(WITHIN):
        async for _ in stubs.executions.Attach(request):
            pass
    return await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=execution_id))


def only(yard: Yard) -> Sandbox:
    (sandbox,) = yard.controller.supervisor.sandboxes()
    return sandbox


async def test_an_adopted_sandbox_is_attested_before_it_goes_on(yard: Yard, runtime: Outliving) -> None:
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate g\nvalue 1")
    await runtime.reached("g")
    waiting = await enqueue(stubs, "w", "value 2")
    await yard.stop()
    stubs = await yard.start(on_stop="keep")
    await until(lambda: only(yard).link.up)
    assert runtime.attested == ["fake-1", "fake-1"], "once when it was new, once when it was adopted"
    runtime.open("g")
    assert [(await ended(stubs, each)).end for each in (running, waiting)] == [ex.EXECUTION_END_SUCCEEDED] * 2
    assert runtime.starts == 1
    runtime.drop_link("fake-1")
    await until(lambda: only(yard).link.up)
    assert (await stubs.run("nb", "value 3")).end == ex.EXECUTION_END_SUCCEEDED
    assert len(runtime.attested) == 2, "who was attested by this controller is not asked again"


async def test_an_adopted_sandbox_that_deviates_is_removed_and_its_notebook_told(
    yard: Yard, runtime: Outliving
) -> None:
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate never")
    await runtime.reached("never")
    waiting = await enqueue(stubs, "w", "value 2")
    await yard.stop()
    runtime.deviates = [DEVIATION]
    stubs = await yard.start(on_stop="keep")
    lost, cancelled = await ended(stubs, running), await ended(stubs, waiting)
    assert (lost.end, lost.end_reason) == (ex.EXECUTION_END_LOST, "capability_unavailable")
    assert DEVIATION in lost.outputs[-1].error.evalue
    assert (cancelled.end, cancelled.end_reason) == (ex.EXECUTION_END_CANCELLED, "capability_unavailable")
    await until(lambda: not runtime.list_of_ids())
    runtime.deviates = []
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    assert runtime.starts == 2


async def test_nothing_is_dispatched_to_an_idle_sandbox_that_deviates(yard: Yard, runtime: Outliving) -> None:
    stubs = await yard.start(on_stop="keep")
    await stubs.run("nb", "value 1")
    await yard.stop()
    runtime.hang_engine()  # so that the next cell comes before anything is known
    stubs = await yard.start(on_stop="keep")
    sent = await begin(stubs, "gate reached\nvalue 2")
    runtime.deviates = [DEVIATION]
    runtime.resume_engine()
    lost = await ended(stubs, sent)
    assert lost.end_reason == "capability_unavailable"
    assert not lost.started_at
    await until(lambda: not runtime.list_of_ids())


async def test_a_template_that_was_defined_anew_does_not_make_its_old_sandboxes_deviate(
    yard: Yard, runtime: Outliving
) -> None:
    small, large = ({"default": {"memory": size}} for size in (1 << 28, 1 << 30))
    stubs = await yard.start(on_stop="keep", templates=small)
    await stubs.run("nb", "value 1")
    await yard.stop()
    stubs = await yard.start(on_stop="keep", templates=large)
    await until(lambda: only(yard).link.up)
    assert [spec.template.memory_bytes for spec in runtime.specs] == [1 << 28, 1 << 28]
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED
    assert runtime.starts == 1


async def test_while_the_runtime_is_silent_sandboxes_are_kept_and_nothing_is_sent(
    yard: Yard, runtime: Outliving
) -> None:
    """The agent's silence is not told from the runtime's: its sandbox outlives many pings' time."""
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate g\nvalue 1")
    await runtime.reached("g")
    await yard.stop()
    runtime.hang_engine()
    stubs = await yard.start(on_stop="keep", sandboxes={"ping_interval": 1.0})
    await until(lambda: only(yard).link.held)
    await asyncio.sleep(5.0)  # longer than an agent may be silent: not for something to happen, but for nothing to
    assert not only(yard).link.up
    waiting = await enqueue(stubs, "w", "value 2")
    runtime.open("g")
    runtime.resume_engine()
    assert [(await ended(stubs, each)).end for each in (running, waiting)] == [ex.EXECUTION_END_SUCCEEDED] * 2
    assert runtime.starts == 1


async def test_what_was_lost_while_the_runtime_was_silent_is_told_when_it_answers(
    yard: Yard, runtime: Outliving
) -> None:
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate never")
    await runtime.reached("never")
    await yard.stop()
    runtime.remove("fake-1")
    runtime.hang_engine()
    stubs = await yard.start(on_stop="keep")
    assert only(yard).instance_id == "fake-1", "nobody could say that it is gone"
    runtime.resume_engine()
    lost = await ended(stubs, running)
    assert (lost.end, lost.end_reason) == (ex.EXECUTION_END_LOST, "runtime_lost")


async def test_an_agent_that_never_dials_again_is_given_up(yard: Yard, runtime: Outliving) -> None:
    """As in a container that somebody paused meanwhile."""
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate never")
    await runtime.reached("never")
    runtime.drop_link("fake-1", stay_away=True)
    await yard.stop()
    stubs = await yard.start(on_stop="keep", sandboxes={"ping_interval": 0.05})
    lost = await ended(stubs, running)
    assert (lost.end, lost.end_reason) == (ex.EXECUTION_END_LOST, "runtime_lost")
    await until(lambda: not runtime.list_of_ids())


async def test_an_instance_that_comes_of_a_start_that_failed_is_removed_whenever_it_comes(
    yard: Yard, runtime: Outliving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the engine falls silent in the middle of a start, and makes the container all the same."""
    monkeypatch.setattr(reconciling, "AGAIN_AFTER", (0.05,) * 1000)
    stubs = await yard.start()
    await stubs.run("other", "value 1")
    foreign = replace(runtime.specs[0], sandbox_id="sb-foreign", controller_id="another controller")
    foreign_id = await FakeRuntime.start(runtime, foreign)
    runtime.silent = True
    refused = await stubs.run("nb", "value 1")
    assert refused.end_reason == "runtime_lost"
    runtime.silent = False
    for _ in range(3):
        late_id = await FakeRuntime.start(runtime, runtime.failed[0])
        await until(lambda name=late_id: name not in runtime.list_of_ids())
    assert foreign_id in runtime.list_of_ids()
    assert (await stubs.run("other", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_controller_that_stops_while_the_runtime_is_silent_ends_and_the_next_one_tidies(
    yard: Yard, runtime: Outliving, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = await yard.start()
    before = await stubs.run("nb", "value 1")
    runtime.hang_engine()
    monkeypatch.setattr(stock, "_STOP_WITHIN", 0.1)
    async with asyncio.timeout(WITHIN):
        await yard.stop()
    assert runtime.list_of_ids() == ["fake-1"]
    runtime.resume_engine()
    stubs = await yard.start()
    await until(lambda: not runtime.list_of_ids())
    again = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=before.execution_id))
    assert again.end == ex.EXECUTION_END_SUCCEEDED


async def test_a_sandbox_of_a_release_that_did_not_note_its_template_is_adopted(yard: Yard, runtime: Outliving) -> None:
    stubs = await yard.start(on_stop="keep")
    await stubs.run("nb", "value 1")
    await yard.stop()
    database = sqlite3.connect(yard.folder / "data" / "cellyard.sqlite")
    with closing(database), database:
        database.execute("UPDATE sandboxes SET asked = ''")
    stubs = await yard.start(on_stop="keep")
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED
    assert runtime.starts == 1
    assert runtime.specs[0].template == runtime.specs[1].template


async def test_a_sandbox_that_ends_before_its_notebook_is_back_in_memory_is_told(
    yard: Yard, runtime: Outliving, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate never")
    await runtime.reached("never")
    await yard.stop()
    reconcile = supervisor.Supervisor.reconcile

    async def and_dies(self: supervisor.Supervisor) -> Any:
        lost = await reconcile(self)
        (sandbox,) = self.sandboxes()
        await runtime.kill("fake-1", exit_code=3)
        await until(lambda: sandbox.end)
        return lost

    monkeypatch.setattr(supervisor.Supervisor, "reconcile", and_dies)
    stubs = await yard.start(on_stop="keep")
    lost = await ended(stubs, running)
    assert lost.end == ex.EXECUTION_END_LOST
    assert lost.end_reason in ("exit", "runtime_lost")  # the latter where it was forgotten already
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_no_agent_is_given_up_before_it_could_dial(
    yard: Yard, runtime: Outliving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where many notebooks have to be read first."""
    stubs = await yard.start(on_stop="keep")
    await stubs.run("nb", "value 1")
    await yard.stop()
    reconcile = supervisor.Supervisor.reconcile

    async def and_takes_long(self: supervisor.Supervisor) -> Any:
        lost = await reconcile(self)
        await asyncio.sleep(2.5)  # longer than an agent may be silent
        return lost

    monkeypatch.setattr(supervisor.Supervisor, "reconcile", and_takes_long)
    stubs = await yard.start(on_stop="keep", sandboxes={"ping_interval": 0.5})
    assert only(yard).instance_id == "fake-1"
