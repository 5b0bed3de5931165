"""Executions through a whole controller: accepted, run, followed, ended once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import manner_pb2
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard, on_both_databases


def kinds(events: list[Any]) -> list[str]:
    return [event.WhichOneof("event") for event in events]


async def collect(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def until(true: Callable[[], bool]) -> None:
    """Returns once this is so."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what goes on in the controller tells nobody
            await asyncio.sleep(0.01)


async def accepted(stream: Any) -> asyncio.Task[list[Any]]:
    """Reads on in the background, once the execution is accepted."""
    events = aiter(stream)
    await anext(events)
    return asyncio.ensure_future(collect(events))


async def test_a_first_run_creates_the_cell_starts_a_kernel_and_streams_to_the_end(stubs: Stubs) -> None:
    events = await collect(stubs.start("nb", "print hello\nvalue 2"))
    numbered = [event for event in events if event.seq]
    assert kinds(events)[0] == "accepted"
    assert kinds(numbered) == ["started", "output", "output", "finished"]
    assert [event.seq for event in numbered] == [1, 2, 3, 4]
    assert numbered[1].output.stream.text == "hello\n"
    assert numbered[-1].finished.end == ex.EXECUTION_END_SUCCEEDED
    cells = (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))).cells
    assert cells[0].source == "print hello\nvalue 2"
    assert cells[0].execution_count == 1
    assert cells[0].outputs[0].stream.text == "hello\n"


async def test_an_ended_execution_streams_again_from_any_number(stubs: Stubs) -> None:
    first = await collect(stubs.start("nb", "print one\nstderr two\nvalue 3"))
    execution_id = first[0].accepted.execution_id
    numbered = [event for event in first if event.seq]
    for after in range(len(numbered) + 1):
        request = ex.AttachExecution(notebook_id="nb", execution_id=execution_id, after_seq=after)
        again = await collect(stubs.executions.Attach(request))
        assert again[1:] == numbered[after:]


async def test_a_stream_that_is_dropped_cancels_nothing(stubs: Stubs, yard: Yard) -> None:
    stream = stubs.start("nb", "gate open\nprint after")
    accepted = (await stream.read()).accepted
    await yard.runtime.reached("open")
    stream.cancel()
    yard.runtime.open("open")
    request = ex.AttachExecution(notebook_id="nb", execution_id=accepted.execution_id)
    events = await collect(stubs.executions.Attach(request))
    assert kinds(events)[-1] == "finished"
    assert any(event.output.stream.text == "after\n" for event in events)


async def test_whoever_leaves_while_a_cell_is_being_accepted_leaves_it_to_run(stubs: Stubs, yard: Yard) -> None:
    """The room stays until it has done what it has begun: nobody else would run the cell."""
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", source="gate reached"))
    store, rooms, disk = yard.controller._store, yard.controller.rooms, threading.Event()
    blocked = asyncio.ensure_future(store.write(lambda _: disk.wait()))
    stream = stubs.executions.Execute(ex.Start(notebook_id="nb", request_id="r", cell_id="c"))
    await until(lambda: store._jobs.qsize() > 0)  # its commit waits for the disk
    stream.cancel()
    await until(lambda: all(seat.users == 0 for seat in rooms._seats.values()))
    disk.set()
    await blocked
    await yard.runtime.reached("reached")


@on_both_databases
async def test_a_repeated_request_is_the_same_execution_and_other_content_is_refused(stubs: Stubs) -> None:
    start = ex.Start(notebook_id="nb", request_id="r1", source=ex.NewCell(cell_id="c1", source="value 1"))
    first, second = await stubs.executions.Enqueue(start), await stubs.executions.Enqueue(start)
    assert first.execution_id == second.execution_id
    start.source.source = "value 2"
    with pytest.raises(grpc.aio.AioRpcError, match="other content"):
        await stubs.executions.Enqueue(start)
    listed = await stubs.executions.List(ex.ListExecutions(notebook_id="nb"))
    assert len(listed.executions) == 1


async def test_executions_of_a_notebook_run_one_after_the_other(stubs: Stubs, yard: Yard) -> None:
    readers = [await accepted(stubs.start("nb", f"gate g{n}\nprint {n}")) for n in range(3)]
    for n in range(3):
        await yard.runtime.reached(f"g{n}")
        yard.runtime.open(f"g{n}")
    results = await asyncio.gather(*readers)
    assert [events[-1].finished.execution_count for events in results] == [1, 2, 3]


async def test_an_error_is_a_result(stubs: Stubs) -> None:
    ended = await stubs.run("nb", "print before\nerror ValueError boom")
    assert ended.end == ex.EXECUTION_END_FAILED
    assert ended.outputs[-1].error.ename == "ValueError"
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


@on_both_databases
async def test_a_display_updated_by_a_later_cell_changes_the_earlier_ones_outputs(stubs: Stubs) -> None:
    first = await stubs.run("nb", "display id1 hello")
    await stubs.run("nb", "update id1 world")
    again = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=first.execution_id))
    assert again.outputs[0].display_data.data["text/plain"].text == "world"
    assert again.last_seq == first.last_seq + 1


async def test_an_interrupt_ends_the_running_cell(stubs: Stubs, yard: Yard) -> None:
    stream = stubs.start("nb", "gate g", session_id="s1")
    reader = asyncio.ensure_future(collect(stream))
    await yard.runtime.reached("g")
    await stubs.kernels.Interrupt(ker.InterruptKernel(notebook_id="nb", session_id="s1", request_id="i"))
    events = await reader
    assert events[-1].finished.end == ex.EXECUTION_END_INTERRUPTED
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_cell_that_outlives_its_timeout_is_ended(stubs: Stubs) -> None:
    ended = await stubs.run("nb", "hang", timeout_s=0.2)
    assert ended.end == ex.EXECUTION_END_TIMED_OUT


async def test_a_dead_kernel_loses_what_ran_and_cancels_what_waited(stubs: Stubs, yard: Yard) -> None:
    readers = [await accepted(stubs.start("nb", source)) for source in ("gate g\nexit 3", "value 2")]
    await yard.runtime.reached("g")
    yard.runtime.open("g")
    first, second = await asyncio.gather(*readers)
    assert first[-1].finished.end == ex.EXECUTION_END_LOST
    assert "exit code 3" in first[-1].finished.end_message
    assert second[-1].finished.end == ex.EXECUTION_END_CANCELLED
    fresh = await stubs.run("nb", "value 1")
    assert fresh.end == ex.EXECUTION_END_SUCCEEDED
    assert fresh.execution_count == 1


async def test_a_sandbox_that_dies_tells_why(stubs: Stubs, yard: Yard) -> None:
    reader = asyncio.ensure_future(collect(stubs.start("nb", "gate g")))
    await yard.runtime.reached("g")
    (sandbox,) = yard.controller.supervisor.sandboxes()
    await yard.runtime.kill(sandbox.instance_id, oom=True)
    events = await reader
    assert events[-1].finished.end == ex.EXECUTION_END_LOST
    assert events[-1].finished.end_reason == "oom"


async def test_a_start_that_fails_cancels_with_the_reason(stubs: Stubs, yard: Yard) -> None:
    yard.runtime.fail_next_start("image_missing", "no such image: build it")
    ended = await stubs.run("nb", "value 1")
    assert ended.end == ex.EXECUTION_END_CANCELLED
    assert ended.end_reason == "image_missing"
    assert "build it" in ended.end_message
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_sandbox_that_deviates_is_given_to_nobody(stubs: Stubs, yard: Yard) -> None:
    yard.runtime.deviates = ["its Seccomp is 0"]
    ended = await stubs.run("nb", "value 1")
    assert ended.end == ex.EXECUTION_END_CANCELLED
    assert ended.end_reason == "capability_unavailable"
    assert "not confined as it must be" in ended.end_message
    assert "its Seccomp is 0" in ended.end_message
    assert yard.controller.supervisor.sandboxes() == []
    yard.runtime.deviates = []
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


@on_both_databases
async def test_a_broken_link_loses_no_output_and_runs_nothing_twice(stubs: Stubs, yard: Yard) -> None:
    reader = asyncio.ensure_future(collect(stubs.start("nb", "print a\ngate g1\nflood 50\ngate g2\nprint z")))
    for gate in ("g1", "g2"):
        await yard.runtime.reached(gate)
        (sandbox,) = yard.controller.supervisor.sandboxes()
        yard.runtime.drop_link(sandbox.instance_id)
        yard.runtime.open(gate)
    events = await reader
    assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED
    text = "".join(event.output.stream.text for event in events)
    assert text.startswith("a\n")
    assert text.endswith("z\n")
    assert len(text.splitlines()) == 52
    assert [event.seq for event in events if event.seq] == list(range(1, events[-1].seq + 1))


async def test_one_lost_request_is_not_carried_out_twice(stubs: Stubs) -> None:
    create = nb.CreateCellRequest(notebook_id="nb", request_id="c", cell_id="a", cell_type="code", source="x")
    write = nb.SetSourceRequest(notebook_id="nb", request_id="w", cell_id="a", source="y")
    delete = nb.DeleteCellRequest(notebook_id="nb", request_id="d", cell_id="a")
    for call, request in ((stubs.notebooks.CreateCell, create), (stubs.notebooks.SetSource, write)):
        assert await call(request) == await call(request)
    await stubs.notebooks.DeleteCell(delete)
    await stubs.notebooks.DeleteCell(delete)
    delete.request_id = "another"
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await stubs.notebooks.DeleteCell(delete)


async def test_a_shutdown_ends_the_wait_for_a_restart(yard: Yard) -> None:
    """Whoever waits for the fresh kernel hears that there will be none."""
    stubs = await yard.start()
    await stubs.run("nb", "value 1")
    (sandbox,) = yard.controller.supervisor.sandboxes()
    yard.runtime.drop_link(sandbox.instance_id, stay_away=True)
    restart = stubs.kernels.Restart(ker.RestartKernel(notebook_id="nb"))
    while (await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))).state != ker.KERNEL_STATE_RESTARTING:
        pass
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="nb"))
    with pytest.raises(grpc.aio.AioRpcError, match="the kernel was shut down"):
        await restart


async def test_a_silent_execution_gets_no_cell(stubs: Stubs) -> None:
    silent = manner_pb2.Manner(silent=True)
    done = await stubs.run("nb", "print out", manner=silent)
    assert (done.cell_id, done.end, done.outputs[0].stream.text) == ("", ex.EXECUTION_END_SUCCEEDED, "out\n")
    assert not (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))).cells


@pytest.mark.parametrize(
    "manner",
    [
        {"user_expressions": {str(number): "1" for number in range(101)}},
        {"user_expressions": {"x": "y" * (4 * 1024 * 1024 + 1)}},
    ],
    ids=["too many", "too long"],
)
async def test_expressions_past_their_limits_are_refused(stubs: Stubs, manner: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.run("nb", "print out", manner=manner_pb2.Manner(**manner))
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
