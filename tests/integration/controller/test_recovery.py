"""A controller that dies and comes back: what was accepted goes on, what is lost says so."""

from __future__ import annotations

import asyncio
from typing import Any

from cryptography.fernet import Fernet

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import WITHIN, Yard, on_both_databases


async def collect(stream: Any) -> list[Any]:
    return [event async for event in stream]


@on_both_databases
async def test_documents_and_executions_outlive_the_controller(yard: Yard) -> None:
    stubs = await yard.start()
    before = await stubs.run("nb", "print hello\nvalue 2")
    await yard.stop()
    stubs = await yard.start()
    again = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=before.execution_id))
    assert again == before
    cells = (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))).cells
    assert [cell.source for cell in cells] == ["print hello\nvalue 2"]
    assert cells[0].outputs == before.outputs
    events = await collect(
        stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=before.execution_id))
    )
    assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED


async def test_what_was_sealed_with_a_key_that_is_lost_costs_the_kernel_and_not_the_notebook(yard: Yard) -> None:
    stubs = await yard.start()
    settings = ker.KernelSettings(env={"SECRET": "s"})
    await collect(stubs.kernels.Start(ker.StartKernel(notebook_id="nb", request_id="r", settings=settings)))
    await stubs.run("nb", "value 1")
    await yard.stop()
    (yard.folder / "data" / "seal.key").write_bytes(Fernet.generate_key())
    stubs = await yard.start()
    assert (await stubs.run("nb", "value 2")).value.json == "2"
    assert len((await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))).cells) == 2


async def test_stopping_ends_what_runs_with_a_reason(yard: Yard) -> None:
    stubs = await yard.start()
    stream = aiter(stubs.start("nb", "print a\ngate g"))
    first = (await anext(stream)).accepted
    async for event in stream:
        if event.WhichOneof("event") == "output":
            break
    reader = asyncio.ensure_future(collect(stream))
    await yard.controller.stop()
    events = await reader
    assert events[-1].finished.end == ex.EXECUTION_END_LOST
    assert events[-1].finished.end_reason == "shutdown"
    yard._running.clear()
    stubs = await yard.start()
    stored = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=first.execution_id))
    assert stored.end == ex.EXECUTION_END_LOST
    assert stored.outputs[0].stream.text == "a\n"


@on_both_databases
async def test_a_sandbox_that_did_not_outlive_the_controller_loses_its_cell_and_the_queue_behind_it(
    yard: Yard,
) -> None:
    """As after a crash: the store has a running and a waiting execution, and the runtime has nothing."""
    stubs = await yard.start(on_stop="keep")
    stream = aiter(stubs.start("nb", "gate never"))
    running = (await anext(stream)).accepted
    await yard.runtime.reached("never")
    waiting = await stubs.executions.Enqueue(
        ex.Start(notebook_id="nb", request_id="w", source=ex.NewCell(cell_id="w", source="value 1"))
    )
    await yard.stop()  # keeps the sandbox, but a fake one is a task and ends
    stubs = await yard.start()
    lost = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=running.execution_id))
    assert (lost.end, lost.end_reason) == (ex.EXECUTION_END_LOST, "runtime_lost")
    gone = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=waiting.execution_id))
    assert (gone.end, gone.end_reason) == (ex.EXECUTION_END_CANCELLED, "runtime_lost")
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_sandbox_whose_link_cannot_be_opened_is_refused_with_the_reason(yard: Yard) -> None:
    stubs = await yard.start()
    (yard.folder / "data" / "link").write_text("in the way")
    async with asyncio.timeout(WITHIN):
        done = await stubs.run("nb", "value 1")
    assert (done.end, done.end_reason) == (ex.EXECUTION_END_CANCELLED, "start_failed")
    (yard.folder / "data" / "link").unlink()
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED
