"""A request id is carried out once: repeated it is answered, with other content it is refused and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import outputs_pb2 as out

from .conftest import Stubs
from .test_access import reason

AT: dict[str, Any] = {"notebook_id": "nb", "request_id": "r"}
EMPTY = b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}'
Make = Callable[[Stubs, str], Any]

MUTATING: dict[str, Make] = {
    "CreateCell": lambda s, _: s.notebooks.CreateCell(nb.CreateCellRequest(**AT, cell_id="new", source="x")),
    "SetSource": lambda s, _: s.notebooks.SetSource(nb.SetSourceRequest(**AT, cell_id="c", source="y")),
    "SpliceSource": lambda s, _: s.notebooks.SpliceSource(nb.SpliceSourceRequest(**AT, cell_id="c", text="z")),
    "MoveCell": lambda s, _: s.notebooks.MoveCell(nb.MoveCellRequest(**AT, cell_id="c")),
    "DeleteCell": lambda s, _: s.notebooks.DeleteCell(nb.DeleteCellRequest(**AT, cell_id="c")),
    "SetCellMetadata": lambda s, _: s.notebooks.SetCellMetadata(
        nb.SetCellMetadataRequest(**AT, cell_id="c", metadata_json='{"a": 1}')
    ),
    "SetCellType": lambda s, _: s.notebooks.SetCellType(nb.SetCellTypeRequest(**AT, cell_id="c", cell_type="raw")),
    "ClearOutputs": lambda s, _: s.notebooks.ClearOutputs(nb.ClearOutputsRequest(**AT)),
    "SetMetadata": lambda s, _: s.notebooks.SetMetadata(nb.SetMetadataRequest(**AT, key="a", value="b")),
    "SetLabels": lambda s, _: s.notebooks.SetLabels(nb.SetLabelsRequest(**AT, labels={"a": "b"})),
    "Import": lambda s, _: s.notebooks.Import(nb.ImportRequest(notebook_id="other", request_id="r", content=EMPTY)),
    "Delete": lambda s, _: s.notebooks.Delete(nb.DeleteNotebook(**AT)),
    "Enqueue": lambda s, _: s.executions.Enqueue(ex.Start(**AT, cell_id="c")),
    "Execute": lambda s, _: last(s.executions.Execute(ex.Start(**AT, cell_id="c"))),
    "Cancel": lambda s, execution: s.executions.Cancel(ex.CancelExecution(**AT, execution_id=execution)),
    "Start": lambda s, _: last(s.kernels.Start(ker.StartKernel(**AT))),
    "Interrupt": lambda s, _: s.kernels.Interrupt(ker.InterruptKernel(**AT)),
    "Restart": lambda s, _: s.kernels.Restart(ker.RestartKernel(**AT)),
    "Extend": lambda s, _: s.kernels.Extend(ker.ExtendKernel(**AT, ttl_s=60)),
    "Shutdown": lambda s, _: s.kernels.Shutdown(ker.ShutdownKernel(**AT)),
    "Install": lambda s, _: last(s.kernels.Install(ker.InstallRequest(**AT, requirements=["numpy"]))),
    "Uninstall": lambda s, _: s.kernels.Uninstall(ker.UninstallRequest(**AT, names=["numpy"])),
    "SendComm": lambda s, _: s.kernels.SendComm(
        ker.SendCommRequest(**AT, comm=out.Comm(comm_id="k", message=out.CommMessage(data_json="{}")))
    ),
}


async def last(stream: Any) -> Any:
    """The last message of a stream."""
    return [each async for each in stream][-1]


async def prepared(stubs: Stubs) -> str:
    """A notebook with a cell that has run, and a kernel; returns the execution's id."""
    cell = ex.NewCell(cell_id="c", source="value 1")
    stream = stubs.executions.Execute(ex.Start(notebook_id="nb", request_id="first", source=cell))
    events = [event async for event in stream]
    await stubs.notebooks.SetMetadata(nb.SetMetadataRequest(notebook_id="other", key="k", value="v"))
    return str(events[0].accepted.execution_id)


async def state(stubs: Stubs) -> Any:
    """All that requests could have changed."""
    at = {"notebook_id": "nb"}
    return (
        await stubs.notebooks.ListCells(nb.ListCellsRequest(**at)),
        await stubs.notebooks.GetMetadata(nb.GetMetadataRequest(**at, key="a")),
        await stubs.executions.List(ex.ListExecutions(**at)),
        await stubs.kernels.Get(ker.GetKernel(**at)),
        await stubs.notebooks.List(nb.ListNotebooks()),
    )


async def refused(call: Any) -> None:
    """The call is refused for its id."""
    with pytest.raises(grpc.aio.AioRpcError, match="'r' was used with other content") as failed:
        await call
    assert reason(failed.value) == "INVALID_REQUEST"


def test_every_request_that_has_an_id_is_tried() -> None:
    """All but Answer, which has a test of its own below."""
    messages = [each for m in (nb, ex, ker) for each in m.DESCRIPTOR.message_types_by_name.values()]
    with_id = {each.name for each in messages if "request_id" in each.fields_by_name}
    assert len(with_id) == len(MUTATING)  # Enqueue and Execute share one, and AnswerCall is not here


@pytest.mark.parametrize("name", MUTATING)
async def test_an_id_that_was_used_is_refused_with_other_content(stubs: Stubs, name: str) -> None:
    execution = await prepared(stubs)
    await stubs.notebooks.SetMetadata(nb.SetMetadataRequest(**AT, key="taken", value="v"))
    before = await state(stubs)
    await refused(MUTATING[name](stubs, execution))
    assert await state(stubs) == before
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED


@pytest.mark.parametrize("name", MUTATING)
async def test_what_was_carried_out_is_answered_again_and_takes_its_id(stubs: Stubs, name: str) -> None:
    execution = await prepared(stubs)
    await MUTATING[name](stubs, execution)
    before = await state(stubs) if name != "Delete" else None
    await MUTATING[name](stubs, execution)
    if before is not None:
        assert await state(stubs) == before
    await refused(stubs.notebooks.SetMetadata(nb.SetMetadataRequest(**AT, key="taken", value="v")))
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED


@pytest.mark.parametrize("name", [name for name in MUTATING if name != "Delete"])
async def test_what_was_carried_out_is_repeated_in_a_notebook_that_was_deleted_since(stubs: Stubs, name: str) -> None:
    """It is answered, or refused for what is not there any more; a kernel that it asks for is started."""
    execution = await prepared(stubs)
    await MUTATING[name](stubs, execution)
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb", request_id="deleted"))
    (answer,) = await asyncio.gather(MUTATING[name](stubs, execution), return_exceptions=True)
    if isinstance(answer, Exception):
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert answer.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
    elif name == "Start":
        assert answer.kernel.state == ker.KERNEL_STATE_IDLE
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED


async def test_ids_that_many_use_at_once_stop_no_notebook(stubs: Stubs) -> None:
    """Restarts of one id in many notebooks: one has it, and every kernel works afterwards."""
    names = [f"nb-{number}" for number in range(8)]
    await asyncio.gather(*(stubs.run(name, "value 1") for name in names))
    restarts = [stubs.kernels.Restart(ker.RestartKernel(notebook_id=name, request_id="r")) for name in names]
    for answer in await asyncio.gather(*restarts, return_exceptions=True):
        if isinstance(answer, grpc.aio.AioRpcError):
            assert reason(answer) == "INVALID_REQUEST"
    for execution in await asyncio.gather(*(stubs.run(name, "value 2") for name in names)):
        assert execution.end == ex.EXECUTION_END_SUCCEEDED


async def test_a_shutdown_that_is_repeated_leaves_a_later_kernel_alone(stubs: Stubs) -> None:
    await prepared(stubs)
    await MUTATING["Shutdown"](stubs, "")
    await stubs.run("nb", "value 2")
    after = await MUTATING["Shutdown"](stubs, "")
    assert after.state == ker.KERNEL_STATE_IDLE


async def test_a_deletion_that_is_repeated_leaves_a_later_notebook_alone(stubs: Stubs) -> None:
    await prepared(stubs)
    await MUTATING["Delete"](stubs, "")
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="later", source="x"))
    await MUTATING["Delete"](stubs, "")
    cells = (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))).cells
    assert [cell.cell_id for cell in cells] == ["later"]
