"""What is kept, what expires, and what an expired id says."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from sqlalchemy import Connection, func, select

from cellyard_controller import upkeep
from cellyard_controller.executions import retention
from cellyard_controller.store.schema import document_chunks
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

LATER = 2 * retention.EVENTS_KEPT_S


async def tidy(yard: Yard) -> None:
    """A round of upkeep, some time later."""
    await upkeep.once(yard.controller._store, time.time() + LATER)


async def rerun(stubs: Stubs, cell_id: str) -> str:
    """Runs a cell that is there, to its end; returns the execution's id."""
    events = [event async for event in stubs.executions.Execute(ex.Start(notebook_id="nb", cell_id=cell_id))]
    return str(events[0].accepted.execution_id)


async def follow(stubs: Stubs, execution_id: str, after: int = 0) -> list[Any]:
    request = ex.AttachExecution(notebook_id="nb", execution_id=execution_id, after_seq=after)
    return [event async for event in stubs.executions.Attach(request)][1:]


async def test_the_last_hundred_are_kept_and_each_cells_last(stubs: Stubs, yard: Yard) -> None:
    lasting = await stubs.run("nb", "value 'only run of its cell'")
    cell = nb.CreateCellRequest(notebook_id="nb", cell_id="again", cell_type="code", source="value 1")
    await stubs.notebooks.CreateCell(cell)
    ids = [await rerun(stubs, "again") for _ in range(retention.KEPT + 6)]
    await yard.stop()  # from memory nothing expires
    stubs = await yard.start()
    await tidy(yard)
    kept = await stubs.executions.List(ex.ListExecutions(notebook_id="nb", limit=1000))
    assert [each.execution_id for each in kept.executions] == [*reversed(ids[5:]), lasting.execution_id]
    with pytest.raises(grpc.aio.AioRpcError, match="has expired"):
        await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=ids[0]))
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id="exec-never"))


async def test_old_events_are_told_in_short_and_outputs_stay(stubs: Stubs, yard: Yard) -> None:
    before = await stubs.run("nb", "print a\nstderr b\nprint c\nflood 30\nvalue 5")
    await yard.stop()
    stubs = await yard.start()
    await tidy(yard)
    events = await follow(stubs, before.execution_id)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["clear_output", *["output"] * len(before.outputs), "finished"]
    assert [event.output for event in events[1:-1]] == list(before.outputs)
    assert [event.seq for event in events] == list(range(before.last_seq - len(events) + 1, before.last_seq + 1))
    assert await follow(stubs, before.execution_id, after=1) == events
    assert await follow(stubs, before.execution_id, after=before.last_seq) == []
    after = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=before.execution_id))
    assert after == before


async def test_what_never_started_is_told_in_short_too(stubs: Stubs, yard: Yard) -> None:
    yard.runtime.fail_next_start("image_missing", "build it")
    cancelled = await stubs.run("nb", "value 1")
    await yard.stop()
    stubs = await yard.start()
    await tidy(yard)
    (finished,) = await follow(stubs, cancelled.execution_id)
    assert (finished.seq, finished.finished.end_reason) == (1, "image_missing")


async def test_a_display_that_is_updated_after_that_goes_on_from_there(stubs: Stubs, yard: Yard) -> None:
    first = await stubs.run("nb", "display d before")
    await tidy(yard)
    await stubs.run("nb", "update d after")
    again = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=first.execution_id))
    assert again.outputs[0].display_data.data["text/plain"].text == "after"
    assert again.last_seq == first.last_seq + 1
    events = await follow(stubs, first.execution_id, after=first.last_seq)
    assert [event.WhichOneof("event") for event in events] == ["display_updated"]


async def test_a_thousand_reruns_leave_the_document_the_size_it_was(stubs: Stubs, yard: Yard) -> None:
    def size(connection: Connection) -> int:
        return int(connection.execute(select(func.sum(func.length(document_chunks.c.chunk)))).scalar_one())

    source = "\n".join(f"print {'x' * 100}" for _ in range(100))
    await stubs.notebooks.CreateCell(
        nb.CreateCellRequest(notebook_id="nb", cell_id="c", cell_type="code", source=source)
    )
    before = await yard.controller._store.read(size)
    for _ in range(1000):
        await rerun(stubs, "c")
    assert await yard.controller._store.read(size) == before
