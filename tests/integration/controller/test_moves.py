"""A controller that shares its store: what it refuses of notebooks that are another's, and how it lets go of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import cellyard
from cellyard import errors
from cellyard._rpc_errors import translate
from cellyard_controller.errors import Moved, Refused
from cellyard_controller.notebooks.room import Room
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.store import StoreFailed
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import files_pb2 as fi
from cellyard_proto.v1 import files_pb2_grpc
from cellyard_proto.v1 import kernels_pb2 as kr
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sessions_pb2 as ss

from .conftest import WITHIN, until
from .nodes import Node, Nodes, ref


@pytest.fixture
async def nodes(folder: Path) -> AsyncIterator[Nodes]:
    several = Nodes(folder)
    yield several
    await several.close()


@pytest.fixture
async def here(nodes: Nodes) -> Node:
    return await nodes.start("a")


@pytest.fixture
async def there(nodes: Nodes, here: Node) -> Node:
    return await nodes.start("b")


def told(failed: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, float]:
    """What a refusal says, and in how many seconds to ask again."""
    metadata: Any = dict(failed.trailing_metadata() or ())
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details:
        detail.Unpack(info) or detail.Unpack(retry)
    return info, retry.retry_delay.ToTimedelta().total_seconds()


async def asked(call: Any) -> Any:
    """A call's answer, or a stream's messages up to its end."""
    return await call if hasattr(call, "__await__") else [message async for message in call]


async def replica() -> AsyncIterator[nb.SyncFromClient]:
    """A live replica that says nothing."""
    yield nb.SyncFromClient(open=nb.SyncOpen(notebook_id="nb"))
    await asyncio.Event().wait()


async def to_its_end(stream: Any) -> None:
    """Reads a stream that was read from by hand before."""
    while await stream.read() is not grpc.aio.EOF:
        pass


CALLS: dict[str, Any] = {
    "Execute": lambda s: s.executions.Execute(
        ex.Start(notebook_id="nb", request_id="r", source=ex.NewCell(cell_id="c", source="value 1"))
    ),
    "Enqueue": lambda s: s.executions.Enqueue(ex.Start(notebook_id="nb", request_id="r", cell_id="c")),
    "Attach": lambda s: s.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id="e")),
    "Get": lambda s: s.executions.Get(ex.GetExecution(notebook_id="nb", execution_id="e")),
    "List": lambda s: s.executions.List(ex.ListExecutions(notebook_id="nb")),
    "Cancel": lambda s: s.executions.Cancel(ex.CancelExecution(notebook_id="nb", execution_id="e", request_id="r")),
    "session": lambda s: s.sessions.Attach(ss.AttachSession(notebook_id="nb", session_id="s")),
    "close": lambda s: s.sessions.Close(ss.CloseSession(notebook_id="nb", session_id="s")),
    "Start": lambda s: s.kernels.Start(kr.StartKernel(notebook_id="nb", request_id="r")),
    "Kernel": lambda s: s.kernels.Get(kr.GetKernel(notebook_id="nb")),
    "Watch": lambda s: s.notebooks.Watch(nb.WatchNotebook(notebook_id="nb")),
    "Sync": lambda s: s.notebooks.Sync(replica()),
    "SetLabels": lambda s: s.notebooks.SetLabels(
        nb.SetLabelsRequest(notebook_id="nb", request_id="r", labels={"a": "b"})
    ),
    "Import": lambda s: s.notebooks.Import(
        nb.ImportRequest(
            notebook_id="nb", request_id="r", content=b'{"nbformat":4,"nbformat_minor":5,"metadata":{},"cells":[]}'
        )
    ),
    "Export": lambda s: s.notebooks.Export(nb.ExportRequest(notebook_id="nb")),
    "Delete": lambda s: s.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb", request_id="r")),
    "files": lambda s: files_pb2_grpc.FilesStub(s.channel).List(fi.ListFiles(notebook_id="nb", path=".")),
}


async def test_every_way_into_a_notebook_names_its_owner(nodes: Nodes, here: Node, there: Node) -> None:
    ran = await there.stubs.run("nb", "value 1")
    for name, call in CALLS.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(call(here.stubs))
        info, _ = told(refused.value)
        assert (name, info.reason) == (name, "NOT_OWNER")
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert dict(info.metadata) == {"endpoint": there.socket, "node": "b", "notebook_id": "nb"}
    assert not here.rooms.loaded
    # Nothing of it has happened, and what is about no notebook is answered by everybody.
    assert (await here.stubs.notebooks.List(nb.ListNotebooks())).notebooks[0].labels == {}
    assert (await here.stubs.sessions.Hello(ss.HelloRequest(protocol=1))).node == "a"
    assert [
        each.execution_id
        for each in (await there.stubs.executions.List(ex.ListExecutions(notebook_id="nb"))).executions
    ] == [ran.execution_id]


async def test_a_client_that_does_not_know_the_reason_reads_a_sentence(
    here: Node, there: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await there.stubs.run("nb", "value 1")
    monkeypatch.delitem(errors._BY_REASON, "NOT_OWNER")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await here.stubs.kernels.Get(kr.GetKernel(notebook_id="nb"))
    failure, broken = translate(refused.value, here.socket)
    assert (type(failure), failure.retryable, broken) == (cellyard.CellyardError, False, False)
    assert str(failure) == f"notebook 'nb' is on node 'b': ask its controller at {there.socket}"
    assert refused.value.details() == str(failure)


async def test_large_parts_are_read_anywhere(here: Node, there: Node) -> None:
    ran = await there.stubs.run("nb", f"html {'x' * 100_000}")
    (blob,) = [value.blob for value in ran.outputs[0].display_data.data.values() if value.HasField("blob")]
    request = ex.ReadBlobRequest(notebook_id="nb", digest=blob.digest)
    content = b"".join([chunk.content async for chunk in here.stubs.executions.ReadBlob(request)])
    assert len(content) == blob.size


async def test_a_notebook_is_asked_for_before_it_is_read_and_given_up_when_its_room_has_gone(here: Node) -> None:
    await here.stubs.notebooks.SetLabels(nb.SetLabelsRequest(notebook_id="nb", request_id="l", labels={"a": "b"}))
    assert here.owns.asked == [("own", "nb"), ("give_up", "nb")]
    await here.stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))
    await until(lambda: here.owns.asked == [("own", "nb"), ("give_up", "nb")] * 2)
    watching = here.stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"))
    await watching.read()
    await here.stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))
    assert here.owns.asked[4:] == [("own", "nb")]  # once, for as long as it is in memory
    await here.stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb", request_id="d"))
    assert here.owns.asked[5:] == [("give_up", "nb")]


async def test_whoever_is_in_a_room_that_is_lost_is_told_to_ask_again(nodes: Nodes, here: Node, there: Node) -> None:
    stubs = here.stubs
    executing = stubs.start("nb", "print before\ngate never")
    running = (await executing.read()).accepted.execution_id
    await here.runtime.reached("never")
    waiting = await stubs.executions.Enqueue(
        ex.Start(notebook_id="nb", request_id="w", source=ex.NewCell(cell_id="w", source="value 1"))
    )
    streams = {
        "Execute": executing,
        "Attach": stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=waiting.execution_id)),
        "Watch": stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb")),
        "Sync": stubs.notebooks.Sync(replica()),
        "session": stubs.sessions.Attach(ss.AttachSession(notebook_id="nb", session_id="s")),
    }
    for name, stream in streams.items():
        assert await stream.read() is not grpc.aio.EOF, name
    await nodes.move("nb", here, there)
    for name, stream in streams.items():
        with pytest.raises(grpc.aio.AioRpcError, match="moved to another node") as ended:
            await asyncio.wait_for(to_its_end(stream), WITHIN)
        info, again = told(ended.value)
        assert (name, info.reason, info.metadata["retryable"]) == (name, "CONTROLLER_UNAVAILABLE", "true")
        assert again > 0
    # Its sandbox goes, though nobody here may write that it has lost anything.
    async with asyncio.timeout(WITHIN):
        while here.controller.supervisor.sandboxes():
            changes = here.controller.supervisor.changes
            await changes.after(changes.count)
    assert not here.rooms.loaded
    # The next owner ends what ran and what waited behind it. Nothing that was shown is missing.
    lost = await there.stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=running))
    assert (lost.end, lost.end_reason) == (ex.EXECUTION_END_LOST, "node_lost")
    assert lost.outputs[0].stream.text == "before\n"
    gone = await there.stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=waiting.execution_id))
    assert (gone.end, gone.end_reason) == (ex.EXECUTION_END_CANCELLED, "node_lost")
    assert (await there.stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED


async def test_who_waits_for_a_kernel_is_told_too_and_gets_none(nodes: Nodes, here: Node, there: Node) -> None:
    here.runtime.hang_engine()
    starting = here.stubs.kernels.Start(kr.StartKernel(notebook_id="nb", request_id="r"))
    await until(lambda: here.runtime.starts)
    await nodes.move("nb", here, there)
    here.runtime.resume_engine()
    with pytest.raises(grpc.aio.AioRpcError, match="moved to another node"):
        await asyncio.wait_for(asked(starting), WITHIN)
    await until(lambda: not here.controller.supervisor.sandboxes())
    assert not here.rooms.loaded


async def test_what_was_not_committed_when_a_notebook_is_lost_is_never_written(
    nodes: Nodes, here: Node, there: Node
) -> None:
    accepted = (await here.stubs.start("nb", "print before\ngate never").read()).accepted
    await here.runtime.reached("never")
    async with here.rooms.use(ref("nb")) as room:
        moving = asyncio.ensure_future(nodes.move("nb", here, there))
        await room.moved
        with pytest.raises(Moved):
            await room.runs.get(accepted.execution_id)
        with pytest.raises(Moved):
            await room._ledger.commit()
        await moving
    stored = await there.stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=accepted.execution_id))
    assert stored.end_reason == "node_lost"


async def test_a_store_that_hangs_keeps_no_sandbox_of_a_lost_notebook(
    nodes: Nodes, here: Node, there: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a node loses its notebooks its store is often away, and their sandboxes have to be gone in time."""
    await here.stubs.start("nb", "gate never").read()
    await here.runtime.reached("never")
    (sandbox,) = here.controller.supervisor.sandboxes()
    hangs, comes_back = asyncio.Event(), asyncio.Event()

    async def write(_work: Any, *, alone: bool = False) -> Any:
        hangs.set()
        await comes_back.wait()
        raise StoreFailed("it was away")

    with monkeypatch.context() as away:
        away.setattr(here.controller._store, "write", write)
        request = nb.CreateCellRequest(notebook_id="nb", request_id="c", cell_id="c", source="x")
        editing = asyncio.ensure_future(asked(here.stubs.notebooks.CreateCell(request)))
        await asyncio.wait_for(hangs.wait(), WITHIN)
        moving = asyncio.ensure_future(nodes.move("nb", here, there))
        await until(lambda: sandbox.instance_id not in here.runtime._sandboxes)
        assert not moving.done()  # the room's last step hangs with the store
        comes_back.set()
        with pytest.raises(grpc.aio.AioRpcError, match="moved to another node"):
            await editing
        await asyncio.wait_for(moving, WITHIN)
    await until(lambda: not here.controller.supervisor.sandboxes())


async def test_a_notebook_that_is_lost_while_it_is_opened_is_not_opened(here: Node, there: Node, nodes: Nodes) -> None:
    await there.stubs.run("nb", "value 1")
    await there.rooms.disown()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def own(_ref: Any, *, create: bool) -> None:
        entered.set()
        await go_on.wait()

    here.owns.own = own  # type: ignore[method-assign]
    listing = asyncio.ensure_future(asked(here.stubs.executions.List(ex.ListExecutions(notebook_id="nb"))))
    await asyncio.wait_for(entered.wait(), WITHIN)
    await here.rooms.disown()
    go_on.set()
    with pytest.raises(grpc.aio.AioRpcError, match="moved to another node"):
        await listing
    assert not here.rooms.loaded
    await until(lambda: here.owns.asked == [("give_up", "nb")])


async def test_a_notebook_that_cannot_be_opened_is_given_up(here: Node) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await here.stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))
    await until(lambda: here.owns.asked == [("own", "nb"), ("give_up", "nb")])


async def test_a_lost_nodes_notebooks_are_taken_over(nodes: Nodes, here: Node, there: Node) -> None:
    accepted = (await there.stubs.start("nb", "gate never").read()).accepted
    await there.runtime.reached("never")
    await there.stubs.run("other", "value 1")
    async with there.rooms.use(ref("nb")) as room:
        key = room.key
    await there.vanish()
    nodes.table.give("nb", "a")
    await here.rooms.take_over([key], (EndReason.NODE_LOST, "node 'b' was lost"))
    found = await here.stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=accepted.execution_id))
    assert (found.end, found.end_reason, found.end_message) == (
        ex.EXECUTION_END_LOST,
        "node_lost",
        "node 'b' was lost",
    )


async def test_a_start_leaves_alone_what_is_another_nodes(nodes: Nodes, here: Node, there: Node) -> None:
    """The store tells of everything that has not ended, whosever it is."""
    run = asyncio.ensure_future(there.stubs.run("nb", "print x\ngate open\nvalue 1"))
    await there.runtime.reached("open")
    await here.rooms.recover({})
    assert not here.rooms.loaded
    there.runtime.open("open")
    assert (await asyncio.wait_for(run, WITHIN)).end == ex.EXECUTION_END_SUCCEEDED


@pytest.fixture
async def full(nodes: Nodes) -> Node:
    """A node with room for one sandbox, which somebody has."""
    node = await nodes.start("a", capacity={"sandboxes": 1})
    await node.stubs.run("first", "value 1")
    return node


@pytest.fixture
async def roomy(nodes: Nodes, full: Node) -> Node:
    return await nodes.start("b")


async def waiting(node: Node, count: int = 1) -> None:
    """Returns once so many claims wait for room."""
    await until(lambda: node.controller.supervisor.waiting() == ["capacity"] * count)


async def enqueue(node: Node, source: str, **more: Any) -> str:
    start = ex.Start(notebook_id="nb", request_id=source, source=ex.NewCell(cell_id=source, source=source), **more)
    execution_id: str = (await node.stubs.executions.Enqueue(start)).execution_id
    return execution_id


async def ends(node: Node, execution_id: str) -> list[str]:
    """How an execution ends: its end, and why."""
    attached = node.stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=execution_id))
    await asyncio.wait_for(asked(attached), WITHIN)
    found = await node.stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=execution_id))
    return [ex.ExecutionEnd.Name(found.end).removeprefix("EXECUTION_END_").lower(), found.end_reason]


async def test_what_waits_for_room_runs_where_it_is_passed_on_to(nodes: Nodes, full: Node, roomy: Node) -> None:
    ids = [await enqueue(full, f"value {number}") for number in range(3)]
    starting = full.stubs.kernels.Start(kr.StartKernel(notebook_id="nb", request_id="k"))
    session = full.stubs.sessions.Attach(ss.AttachSession(notebook_id="nb", session_id="s"))
    assert await session.read()
    await waiting(full)
    await full.rooms.pass_on({ref("nb"): "b", ref("first"): "b", ref("nowhere"): "b"})
    assert full.owns.asked[-1] == ("hand_over", "nb"), "who has a kernel is left alone, and who is not here"
    for stream in (starting, session):
        with pytest.raises(grpc.aio.AioRpcError, match="moved to another node") as ended:
            await asyncio.wait_for(to_its_end(stream), WITHIN)
        assert told(ended.value)[0].metadata["retryable"] == "true"
    await roomy.rooms.take_over(nodes.table.handed, (EndReason.NODE_LOST, "not of these"))
    assert [await ends(roomy, each) for each in ids] == [["succeeded", ""]] * 3
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await full.stubs.kernels.Get(kr.GetKernel(notebook_id="nb"))
    assert told(refused.value)[0].metadata["node"] == "b"
    assert not full.controller.supervisor.queue()
    assert [each.notebook.notebook_id for each in full.controller.supervisor.sandboxes()] == ["first"]


@pytest.mark.parametrize("fails", [False, StoreFailed("the database went away")])
async def test_what_cannot_be_passed_on_goes_on_where_it_is(full: Node, roomy: Node, fails: bool | Exception) -> None:
    """The other node does not serve any more; or nobody can say what has become of it."""
    execution_id = await enqueue(full, "value 1")
    await waiting(full)
    full.owns.hands_over = fails
    if fails:
        with pytest.raises(StoreFailed):
            await full.rooms.pass_on({ref("nb"): "b"})
        await full.rooms.pass_on({})
    else:
        await full.rooms.pass_on({ref("nb"): "b"})
    await waiting(full)
    await full.stubs.kernels.Shutdown(kr.ShutdownKernel(notebook_id="first", request_id="s"))
    assert await ends(full, execution_id) == ["succeeded", ""]
    assert not roomy.rooms.loaded


async def test_what_is_lost_while_it_is_passed_on_is_lost(
    full: Node, roomy: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ends at that moment: who takes over sees to all of it."""
    await enqueue(full, "value 1")
    await waiting(full)
    pass_on, losing = Room.pass_on, list[asyncio.Task[None]]()

    async def lost_meanwhile(room: Room, why: Refused) -> bool:
        done = await pass_on(room, why)
        losing.append(asyncio.create_task(full.rooms.disown()))
        await until(lambda: not full.rooms.loaded)
        return done

    monkeypatch.setattr(Room, "pass_on", lost_meanwhile)
    await full.rooms.pass_on({ref("nb"): "b"})
    await asyncio.wait_for(losing[0], WITHIN)
    assert ("hand_over", "nb") not in full.owns.asked


async def test_what_has_got_its_room_meanwhile_is_not_passed_on(full: Node, roomy: Node) -> None:
    execution_id = await enqueue(full, "value 1")
    await waiting(full)
    await full.stubs.kernels.Shutdown(kr.ShutdownKernel(notebook_id="first", request_id="s"))
    assert await ends(full, execution_id) == ["succeeded", ""]
    await full.rooms.pass_on({ref("nb"): "b"})
    assert ("hand_over", "nb") not in full.owns.asked


async def test_a_start_timeout_goes_along(nodes: Nodes, full: Node, roomy: Node) -> None:
    """It is of what was accepted, not of where that waits."""
    execution_id = await enqueue(full, "value 1")
    await waiting(full)
    async with full.rooms.use(ref("nb")) as room:
        (before,) = room._runner.queue.waiting
    roomy.runtime.hang_engine()
    await full.rooms.pass_on({ref("nb"): "b"})
    await roomy.rooms.take_over(nodes.table.handed, (EndReason.NODE_LOST, "not of these"))
    async with roomy.rooms.use(ref("nb")) as room:
        (after,) = room._runner.queue.waiting
    assert (after.execution_id, after.start_deadline) == (execution_id, before.start_deadline)
    roomy.runtime.resume_engine()
    assert await ends(roomy, execution_id) == ["succeeded", ""]
