"""Watching a notebook through a whole controller: what comes first, what comes after it, and how it ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from tests.follower import Follower, plain

from cellyard_controller.api import responses
from cellyard_controller.errors import Stopping
from cellyard_controller.ids import LOCAL, NotebookId, NotebookRef
from cellyard_controller.notebooks import watchers
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

_numbers = itertools.count(1)
REF = NotebookRef(LOCAL, NotebookId("nb"))


async def call(stubs: Stubs, message: Any, **fields: Any) -> Any:
    name = message.__name__.removesuffix("Request").replace("DeleteNotebook", "Delete")
    if "request_id" in message.DESCRIPTOR.fields_by_name:
        fields["request_id"] = f"r{next(_numbers)}"
    return await getattr(stubs.notebooks, name)(message(notebook_id="nb", **fields))


async def create(stubs: Stubs, cell_id: str, source: str, **fields: Any) -> None:
    await call(stubs, nb.CreateCellRequest, cell_id=cell_id, source=source, **fields)


async def enqueue(stubs: Stubs, cell_id: str) -> str:
    start = ex.Start(notebook_id="nb", request_id=f"r{next(_numbers)}", cell_id=cell_id)
    return str((await stubs.executions.Enqueue(start)).execution_id)


async def finished(stubs: Stubs, execution_id: str) -> None:
    async for _ in stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=execution_id)):
        pass


def watch(stubs: Stubs) -> Any:
    return stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"))


async def beside_grpc(yard: Yard) -> AsyncGenerator[nb.NotebookEvent, None]:
    """The stream without gRPC, which would read ahead."""
    async with yard.controller.rooms.use(REF) as room, aclosing(room.watching.watch()) as told:
        async for each in told:
            yield responses.notebook_event(REF, each)


async def take_until(follower: Follower, stream: Any, key: str, value: str) -> list[nb.NotebookEvent]:
    """Reads on until the notebook's metadata say so."""
    taken = []
    while follower.metadata.get(key) != value or not follower.whole:
        taken.append(await anext(stream))
        follower.take(taken[-1])
    return taken


async def mark(stubs: Stubs, value: str) -> None:
    await call(stubs, nb.SetMetadataRequest, key="mark", value=value)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.001)


async def shown(stubs: Stubs) -> list[dict[str, Any]]:
    return [plain(cell) for cell in (await call(stubs, nb.ListCellsRequest)).cells]


async def test_the_notebook_comes_first_then_each_change_in_order(stubs: Stubs) -> None:
    await create(stubs, "a", "x = 1", metadata_json='{"tags": ["t"]}')
    await mark(stubs, "0")
    stream = aiter(watch(stubs))
    first = [await anext(stream) for _ in range(5)]
    assert [event.WhichOneof("event") for event in first] == [
        "snapshot_begin",
        "metadata_changed",
        "kernel_changed",
        "cell_changed",
        "snapshot_end",
    ]
    assert first[0].snapshot_begin.notebook_id == "nb"
    assert first[3].cell_changed.cell == await call(stubs, nb.GetCellRequest, cell_id="a")
    await create(stubs, "b", "", index=0)
    await call(stubs, nb.MoveCellRequest, cell_id="b", after_cell_id="a")
    await call(stubs, nb.SpliceSourceRequest, cell_id="a", text="2")
    await call(stubs, nb.DeleteCellRequest, cell_id="a")
    new, moved, edited, gone = [await anext(stream) for _ in range(4)]
    assert (new.cell_changed.cell.cell_id, new.cell_changed.after_cell_id) == ("b", "")
    assert (moved.cell_changed.cell.cell_id, moved.cell_changed.after_cell_id) == ("b", "a")
    assert (edited.cell_changed.cell.source, edited.cell_changed.with_outputs) == ("x = 12", False)
    assert gone.cell_removed.cell_id == "a"


async def test_two_who_watch_see_the_same_as_the_executions_own_stream(stubs: Stubs, yard: Yard) -> None:
    await create(stubs, "a", "print one\ngate g\ndisplay d x\nupdate d y\nvalue 3")
    await mark(stubs, "0")
    streams = [aiter(watch(stubs)) for _ in range(2)]
    followers = [Follower(), Follower()]
    for follower, stream in zip(followers, streams, strict=True):
        await take_until(follower, stream, "mark", "0")
    execution_id = await enqueue(stubs, "a")
    await yard.runtime.reached("g")
    yard.runtime.open("g")
    own = [
        event
        async for event in stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=execution_id))
        if event.seq
    ]
    await mark(stubs, "1")
    taken = [await take_until(*pair, "mark", "1") for pair in zip(followers, streams, strict=True)]
    assert taken[0] == taken[1]
    of_execution = [event.execution_changed for event in taken[0] if event.HasField("execution_changed")]
    assert {(each.execution_id, each.cell_id) for each in of_execution} == {(execution_id, "a")}
    assert of_execution[0].event.accepted.source == (await call(stubs, nb.GetCellRequest, cell_id="a")).source
    assert [each.event for each in of_execution if each.event.seq] == own
    assert [follower.plain() for follower in followers] == [await shown(stubs)] * 2


async def test_who_comes_while_a_cell_runs_has_its_output_once(stubs: Stubs, yard: Yard) -> None:
    """The snapshot is read slowly: cells are told when more has happened than at the moment that it is of."""
    for n in range(15):
        await create(stubs, f"c{n}", "")
    await create(stubs, "a", "print one\ngate g\nprint two\nprint three")
    execution_id = await enqueue(stubs, "a")
    async for event in stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=execution_id)):
        if event.HasField("output"):
            break
    stream, follower = beside_grpc(yard), Follower()
    follower.take(await anext(stream))
    yard.runtime.open("g")
    await finished(stubs, execution_id)
    await mark(stubs, "1")
    taken = await take_until(follower, stream, "mark", "1")
    assert follower.plain() == await shown(stubs)
    outputs = [event for event in taken if event.execution_changed.event.HasField("output")]
    assert outputs == []  # the snapshot has them
    assert follower.executions == {execution_id: "EXECUTION_END_SUCCEEDED"}
    await stream.aclose()


async def test_who_comes_between_a_clear_and_the_next_output_clears_too(stubs: Stubs, yard: Yard) -> None:
    await create(stubs, "a", "print old\nclear wait\ngate g\nprint new")
    execution_id = await enqueue(stubs, "a")
    await yard.runtime.reached("g")
    await mark(stubs, "0")
    stream, follower = aiter(watch(stubs)), Follower()
    await take_until(follower, stream, "mark", "0")
    assert [output["text"] for output in follower.cells["a"].outputs.outputs()] == ["old\n"]
    yard.runtime.open("g")
    await finished(stubs, execution_id)
    await mark(stubs, "1")
    await take_until(follower, stream, "mark", "1")
    assert [output["text"] for output in follower.cells["a"].outputs.outputs()] == ["new\n"]
    assert follower.plain() == await shown(stubs)


async def test_cleared_outputs_stay_cleared_while_the_cell_runs_on(stubs: Stubs, yard: Yard) -> None:
    await create(stubs, "a", "print one\ngate g\nprint two")
    await mark(stubs, "0")
    stream, follower = aiter(watch(stubs)), Follower()
    await take_until(follower, stream, "mark", "0")
    execution_id = await enqueue(stubs, "a")
    await yard.runtime.reached("g")
    await call(stubs, nb.ClearOutputsRequest)
    yard.runtime.open("g")
    await finished(stubs, execution_id)
    await mark(stubs, "1")
    await take_until(follower, stream, "mark", "1")
    assert follower.cells["a"].outputs.outputs() == []
    assert follower.plain() == await shown(stubs)


async def test_who_reads_too_slowly_gets_the_notebook_again_and_costs_no_memory(stubs: Stubs, yard: Yard) -> None:
    await create(stubs, "a", "")
    await mark(stubs, "0")
    stream, follower = beside_grpc(yard), Follower()
    await take_until(follower, stream, "mark", "0")
    for n in range(60):  # more than may wait
        await call(stubs, nb.SetSourceRequest, cell_id="a", source=str(n) * 100_000)
    await mark(stubs, "1")
    async with yard.controller.rooms.use(REF) as room:
        (watcher,) = room.watchers._all
        assert watcher.idle
    await take_until(follower, stream, "mark", "1")
    assert follower.kinds["snapshot_begin"] == 2
    assert follower.kinds["cell_changed"] == 2
    assert follower.plain() == await shown(stubs)
    await stream.aclose()


async def test_as_many_events_wait_as_the_limit_says(stubs: Stubs, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "MAX_EVENTS", 50)
    await mark(stubs, "0")
    for extra, snapshots in ((0, 1), (1, 2)):
        stream, follower = beside_grpc(yard), Follower()
        await take_until(follower, stream, "mark", "0")
        for n in range(watchers.MAX_EVENTS - 1 + extra):
            await call(stubs, nb.SetMetadataRequest, key="n", value=str(n))
        await mark(stubs, "1")
        await take_until(follower, stream, "mark", "1")
        assert follower.kinds["snapshot_begin"] == snapshots
        await stream.aclose()
        await mark(stubs, "0")


async def test_a_watched_room_stays_and_goes_when_nobody_watches_any_more(stubs: Stubs, yard: Yard) -> None:
    await mark(stubs, "0")
    stream = watch(stubs)
    await stream.read()
    async with yard.controller.rooms.use(REF) as room:
        assert not room.at_rest
    assert yard.controller.rooms.unused_since is None
    stream.cancel()
    await until(lambda: yard.controller.rooms.unused_since is not None)


async def test_a_notebook_that_is_not_there_cannot_be_watched(stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="'nb' not found"):
        await anext(aiter(watch(stubs)))


async def test_watching_ends_with_the_notebook(stubs: Stubs) -> None:
    await mark(stubs, "0")
    stream, follower = aiter(watch(stubs)), Follower()
    await take_until(follower, stream, "mark", "0")
    await call(stubs, nb.DeleteNotebook)
    with pytest.raises(grpc.aio.AioRpcError, match="'nb' was deleted") as ended:
        await anext(stream)
    assert b"NOTEBOOK_NOT_FOUND" in dict(ended.value.trailing_metadata() or ())["grpc-status-details-bin"]


async def test_watching_ends_with_the_controller_so_that_it_is_tried_again(stubs: Stubs, yard: Yard) -> None:
    await create(stubs, "a", "gate g")
    await mark(stubs, "0")
    stream, follower = beside_grpc(yard), Follower()
    await take_until(follower, stream, "mark", "0")
    through_grpc = aiter(watch(stubs))
    await anext(through_grpc)
    await enqueue(stubs, "a")
    await yard.runtime.reached("g")
    controller, _ = yard._running[-1]
    stopping = asyncio.ensure_future(controller.stop())
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in through_grpc:
            pass
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Stopping):
        await take_until(follower, stream, "mark", "never")
    assert set(follower.executions.values()) == {"EXECUTION_END_LOST"}  # the end is told before that
    await stopping
    yard._running.clear()
    again = await yard.start()
    await take_until(follower, aiter(watch(again)), "mark", "0")
    assert follower.plain() == await shown(again)


async def test_a_kernel_that_dies_with_a_report_in_hand_is_told_of_at_once(yard: Yard) -> None:
    """Its agent's last report has nobody to be acknowledged to; that holds up neither the news nor the room's end."""
    stubs = await yard.start(sessions={"grace": 0.05})
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", source="x"))
    watched = stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"))
    await watched.read()
    await stubs.run("nb", "exit 1")
    async with asyncio.timeout(60):
        while (await watched.read()).kernel_changed.state != ker.KERNEL_STATE_DEAD:
            pass
        watched.cancel()
        while yard.controller.rooms._seats:  # noqa: ASYNC110 - a room that goes tells nobody
            await asyncio.sleep(0.01)
