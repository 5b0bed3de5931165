"""Clients that leave things half done, come in thousands, or go in the middle: refused or ended, and nothing is left.

Meanwhile another tenant's cell runs, and afterwards tasks, calls and descriptors are what they were.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from tests.raw_http2 import DATA, END_HEADERS, HEADERS, Connection, call, frame, message

from cellyard_controller.api import server
from cellyard_controller.app import Controller
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard
from .direct_calls import methods_of
from .test_access import Tcp, reason
from .test_deletion import to_the_end
from .test_hostile_agent import MIB, resident
from .valid_requests import valid_requests

WITHIN = 60
"""Seconds within which what must happen has happened, on a machine that has much to do."""
LIST = "/cellyard.v1.Notebooks/List"
HALF = message(b"", size=30 * MIB)
"""The begin of a message."""


async def until(true: Callable[[], bool]) -> None:
    """Returns once this is so."""
    async with asyncio.timeout(WITHIN):
        while not true():  # noqa: ASYNC110 - what ends in the controller tells nobody
            await asyncio.sleep(0.01)


def calls(controller: Controller) -> int:
    """How many calls go on."""
    return controller._access.arrivals._calls.total()


def descriptors() -> int:
    """Open files and connections of this process, controller and clients both."""
    return len(os.listdir("/proc/self/fd"))


class Scene:
    """A controller on a unix socket and on TCP, and a tenant who wants nothing but to work."""

    def __init__(self, tcp: Tcp, yard: Yard, good: Stubs, as_good: tuple[tuple[str, str], ...]) -> None:
        self.tcp, self.yard, self._good, self._as_good = tcp, yard, good, as_good
        self.controller = yard.controller

    async def others_work(self) -> None:
        """The other tenant's `1+1` is answered."""
        number = os.urandom(8).hex()
        start = ex.Start(notebook_id="good", source=ex.NewCell(cell_id=number, source="value 2"))
        async with asyncio.timeout(WITHIN):
            events = [each async for each in self._good.executions.Execute(start, metadata=self._as_good)]
        assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED

    @asynccontextmanager
    async def attacked(self, *, memory: int = 100 * MIB) -> AsyncIterator[None]:
        """What happens in the block hinders nobody, and has left nothing when it is over."""
        await self.others_work()
        tasks, files, used = len(asyncio.all_tasks()), descriptors(), resident()
        yield
        await self.others_work()
        await until(lambda: calls(self.controller) == 0 and len(asyncio.all_tasks()) <= tasks + 2)
        await until(lambda: descriptors() <= files + 3)
        assert not any(self.controller._access._streams.values())
        assert resident() - used < memory


@pytest.fixture
async def scene(yard: Yard) -> AsyncIterator[Scene]:
    """Limits that are reached soon."""
    yard.config["limits"] = {"arrival": 2, "calls": 200, "feeds": 20}
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    good, as_good = await tcp.tenant("good")
    yield Scene(tcp, yard, good, as_good)
    for channel in tcp.channels:
        await channel.close()


async def ends_of(connection: Connection, count: int) -> list[bytes]:
    """The last headers of that many calls."""
    found: list[bytes] = []
    async with asyncio.timeout(WITHIN):
        while len(found) < count:
            got = await connection.next_frame()
            assert got is not None
            kind, flags, _, content = got
            if kind == HEADERS and flags & 1:
                found.append(content)
    return found


async def half_said(connection: Connection, count: int, path: str = LIST, *more: tuple[str, str]) -> None:
    """Begins that many calls, each with the begin of a large message."""
    for stream in range(1, 2 * count, 2):
        await connection.send(frame(HEADERS, END_HEADERS, stream, call(path, *more)))
        await connection.send_data(stream, HALF)


async def test_nothing_is_read_of_who_is_not_known(scene: Scene) -> None:
    async with scene.attacked(memory=50 * MIB):
        connection = await Connection.open(scene.tcp.target)
        await half_said(connection, 500)
        for end in await ends_of(connection, 500):
            assert b"UNAUTHENTICATED" in end or b"16" in end
        connection.close()


@pytest.mark.parametrize("path", [LIST, "/cellyard.v1.Executions/Execute", "/cellyard.v1.Files/Upload"])
async def test_a_request_that_does_not_come_is_refused_after_a_while(scene: Scene, path: str) -> None:
    """The attacker is the operator here; others' requests are read all the same."""
    async with scene.attacked():
        connection = await Connection.open(f"unix:{scene.yard.folder}/c.sock")
        await half_said(connection, 15, path)
        await scene.others_work()
        ends = await ends_of(connection, 15)
        assert all(b"grpc-status" in end or end for end in ends)
        connection.close()
    channel = scene.tcp.operator.channel
    late = channel.stream_stream(path, request_serializer=None, response_deserializer=None)()
    with pytest.raises(grpc.aio.AioRpcError, match="did not come within 2 s") as refused:
        await late.read()
    assert reason(refused.value) == "INVALID_REQUEST"


async def test_a_call_without_a_message_is_refused(scene: Scene) -> None:
    make = scene.tcp.operator.channel.stream_unary(LIST, request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.aio.AioRpcError, match="the request of List has no message") as refused:
        await make(iter(()))
    assert reason(refused.value) == "INVALID_REQUEST"


@pytest.mark.parametrize("what", ["nothing", "preface", "headers", "garbage"])
async def test_hundreds_of_half_open_connections_hinder_nobody(scene: Scene, what: str) -> None:
    async with scene.attacked():
        opened = [await Connection.open(scene.tcp.target, greet=what == "headers") for _ in range(300)]
        for connection in opened:
            if what == "preface":
                await connection.send(b"PRI * HTTP/2.0\r\n")
            elif what == "headers":
                await connection.send(frame(HEADERS, 0, 1, call(LIST)))  # and they never end
            elif what == "garbage":
                await connection.send(os.urandom(1000))
        await scene.others_work()
        if what in ("nothing", "preface", "garbage"):  # those that say nothing are hung up on
            async with asyncio.timeout(WITHIN):
                await asyncio.gather(*(connection.ended() for connection in opened))
        for connection in opened:
            connection.close()


async def test_connections_past_the_limit_leave_the_operators_socket_alone(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_connections", lambda: 20)
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    target = yard.controller.addresses[1]
    kept = [await Connection.open(target) for _ in range(20)]
    for connection in kept:
        await connection.send(frame(HEADERS, END_HEADERS, 1, call(LIST)))
        await ends_of(connection, 1)
    late = await Connection.open(target)
    async with asyncio.timeout(WITHIN):
        await late.ended()
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    for connection in (*kept, late):
        connection.close()


async def test_a_tenants_calls_have_a_limit_that_is_its_own(scene: Scene) -> None:
    bad, as_bad = await scene.tcp.tenant("bad")
    await bad.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c"), metadata=as_bad)
    async with scene.attacked():
        streams = [bad.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"), metadata=as_bad) for _ in range(200)]
        await asyncio.gather(*(stream.read() for stream in streams))
        with pytest.raises(grpc.aio.AioRpcError, match="200 calls go on already") as refused:
            await bad.notebooks.List(nb.ListNotebooks(), metadata=as_bad)
        assert reason(refused.value) == "QUOTA_EXCEEDED"
        await scene.others_work()
        for stream in streams:
            stream.cancel()
    feeds = [bad.notebooks.Sync(metadata=as_bad) for _ in range(20)]
    for feed in feeds:
        await feed.write(nb.SyncFromClient(open=nb.SyncOpen(notebook_id="nb")))
        await feed.read()
    one_more = bad.notebooks.Sync(metadata=as_bad)
    with pytest.raises(grpc.aio.AioRpcError, match="20 calls that send streams") as refused:
        await one_more.read()
    assert reason(refused.value) == "QUOTA_EXCEEDED"
    for feed in feeds:
        feed.cancel()


async def test_thousands_of_calls_on_one_connection(yard: Yard) -> None:
    """As many as a connection may have, none of which says what it wants."""
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    good, as_good = await tcp.tenant("good")
    scene = Scene(tcp, yard, good, as_good)
    async with scene.attacked():
        connection = await Connection.open(f"unix:{yard.folder}/c.sock")
        for stream in range(1, 8_000, 2):
            await connection.send(frame(HEADERS, END_HEADERS, stream, call(LIST)))
            if stream % 500 == 499:  # gRPC refuses more than 1,000 that it has not looked at
                await until(partial(lambda expected: calls(yard.controller) == expected, (stream + 1) // 2))
        await scene.others_work()
        connection.close()
    for channel in tcp.channels:
        await channel.close()


@pytest.mark.parametrize("header", ["x-more", "authorization"])
async def test_metadata_has_a_limit(scene: Scene, header: str) -> None:
    async with scene.attacked():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await scene.tcp.operator.notebooks.List(nb.ListNotebooks(), metadata=((header, "y" * 100_000),))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_is_small_only_on_the_wire_is_not_unpacked(scene: Scene) -> None:
    async with scene.attacked(memory=20 * MIB):
        connection = await Connection.open(f"unix:{scene.yard.folder}/c.sock")
        await connection.send(
            frame(HEADERS, END_HEADERS, 1, call(LIST, ("grpc-encoding", "gzip"))),
            frame(DATA, 1, 1, message(b"\x1f\x8b" + os.urandom(100), compressed=True)),
        )
        (end,) = await ends_of(connection, 1)
        assert b"12" in end  # UNIMPLEMENTED
        connection.close()


async def test_every_method_answers_strangers_alike(scene: Scene) -> None:
    """Without a token, with a wrong one, with one that is none: for each method, whatever is sent."""
    requests = valid_requests("c", "e")
    channel = scene.tcp.connect().channel
    async with scene.attacked():
        for path, messages in requests.items():
            for metadata in ((), (("authorization", "Bearer cy_wrong"),), (("authorization", "Basic eDp5"),)):
                sent = () if path.endswith(("Sync", "Upload", "Exec", "Write")) else messages
                assert await refusal(channel, path, sent, metadata) == ("UNAUTHENTICATED", "authentication failed")


async def test_what_another_tenant_has_is_as_unknown_as_what_nobody_has(scene: Scene) -> None:
    """Each method that names a notebook, with the ids of cell and execution that are there."""
    bad, as_bad = await scene.tcp.tenant("bad")
    ran = await scene.tcp.operator.run("nb", "print a\nvalue 1")
    requests = valid_requests(ran.cell_id, ran.execution_id)
    paths = [method.path for method in await methods_of(scene.controller)]
    assert sorted(requests) == sorted(paths)
    creating = {
        *(f"Notebooks/{name}" for name in ("CreateCell", "SetMetadata", "SetLabels", "Import", "Sync")),
        *("Executions/Execute", "Executions/Enqueue", "Kernels/Start", "Sessions/Attach", "Sessions/Close"),
    }
    async with scene.attacked():
        for path, messages in requests.items():
            there = at(messages, "nb")
            if there is None or path.removeprefix("/cellyard.v1.") in creating:
                continue
            seen = await refusal(bad.channel, path, there, as_bad)
            none = await refusal(bad.channel, path, at(messages, "none"), as_bad)
            assert (none[0], none[1].replace("'none'", "'nb'")) == seen, path
            assert seen[0] in ("NOTEBOOK_NOT_FOUND", "NO_KERNEL", "CELL_NOT_FOUND", "EXECUTION_NOT_FOUND"), path


def at(messages: Sequence[Message], notebook: str) -> list[Message] | None:
    """The messages for another notebook; None where they name none."""
    copies = copy.deepcopy(list(messages))
    named = [
        part
        for each in copies
        for part in (each, *(value for field, value in each.ListFields() if field.message_type))
        if getattr(part, "notebook_id", "")
    ]
    for part in named:
        part.notebook_id = notebook
    return copies if named else None


async def refusal(channel: grpc.aio.Channel, path: str, messages: Any, metadata: Any) -> tuple[str, str]:
    """Reason and words with which a call is refused; of those that take streams the first message is sent, if any."""
    if path.rpartition("/")[2] in ("Sync", "Upload", "Exec", "Write"):
        make = channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        stream = make(metadata=metadata)
        for each in messages[:1]:
            with suppress(asyncio.InvalidStateError, grpc.aio.UsageError):  # it may be refused already
                await stream.write(each.SerializeToString())
    else:
        serialise = type(messages[0]).SerializeToString
        one = channel.unary_stream(path, request_serializer=serialise, response_deserializer=None)
        stream = one(messages[0], metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await to_the_end(stream)
    return reason(refused.value), refused.value.details() or ""


GARBAGE = (b"\xff" * 50, b"\n\xff\xff\xff\xff\x0f", b"\x0a\x02\xed\xa0", os.urandom(64))


@pytest.mark.parametrize("path", ["Notebooks/Sync", "Files/Upload", "Processes/Exec", "Artifacts/Write"])
async def test_garbage_in_streams_is_refused_by_name(scene: Scene, path: str) -> None:
    """First, and behind a good beginning."""
    await scene.tcp.operator.run("nb", "value 1")
    path = f"/cellyard.v1.{path}"
    good = valid_requests("c", "e")[path][0].SerializeToString()
    make = scene.tcp.operator.channel.stream_stream(path, request_serializer=None, response_deserializer=None)
    async with scene.attacked():
        for garbage in GARBAGE[:3]:
            for messages in ([garbage], [good, garbage]):
                stream = make()
                with suppress(grpc.aio.UsageError, asyncio.InvalidStateError):  # it may be over already
                    for each in messages:
                        await stream.write(each)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await to_the_end(stream)
                assert reason(refused.value) == "INVALID_REQUEST"
                if messages == [garbage]:
                    assert "cannot be read" in (refused.value.details() or "")


ABANDONED = {
    "Executions/Execute": 3,
    "Executions/Attach": 3,
    "Notebooks/Watch": 4,
    "Notebooks/Sync": 2,
    "Notebooks/Export": 1,
    "Files/Upload": 2,
    "Files/Download": 2,
    "Processes/Exec": 2,
    "Artifacts/Write": 1,
    "Artifacts/Read": 2,
    "Kernels/Start": 1,
    "Sessions/Attach": 1,
}
"""Streams, and how many messages of each are worth going after."""


@pytest.mark.parametrize("path", ABANDONED)
async def test_whoever_goes_in_the_middle_leaves_nothing(scene: Scene, path: str) -> None:
    """At each step: before anything is sent, behind each message that is sent, behind each that is read."""
    stubs = scene.tcp.operator
    ran = await stubs.run("nb", "print a\nvalue 1")
    path, reads = f"/cellyard.v1.{path}", ABANDONED[path]
    await upload(stubs)
    async with scene.attacked():
        make = stubs.channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        for step in range(1 + 3 + reads):
            stream, left = make(), step
            for each in valid_requests(ran.cell_id, ran.execution_id)[path]:
                if left:
                    left -= 1
                    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                        await stream.write(each.SerializeToString())
            while left and not stream.done():
                left -= 1
                reading = asyncio.ensure_future(stream.read())
                await asyncio.wait({reading}, timeout=0.2)  # one that says no more is left while it is silent
                if not reading.done():
                    break
                with suppress(grpc.aio.AioRpcError):
                    reading.result()
            stream.cancel()
        await until(lambda: calls(scene.controller) == 0)
    (room,) = [each.room for ref, each in scene.controller.rooms._seats.items() if ref.notebook_id == "nb"]
    assert room._kernel.visits == 0
    assert not room.watchers.anybody
    assert not room.replication.anybody
    assert (await stubs.run("nb", "value 2")).end == ex.EXECUTION_END_SUCCEEDED


async def upload(stubs: Stubs) -> None:
    """The file that is there to be read."""
    path = "/cellyard.v1.Files/Upload"
    stream = stubs.channel.stream_stream(path, request_serializer=None, response_deserializer=None)()
    for each in valid_requests("", "")[path]:
        await stream.write(each.SerializeToString())
    await to_the_end(stream)


async def test_who_reads_nothing_of_a_flood_costs_nothing(scene: Scene) -> None:
    """The connection is full, the stream waits; the execution goes on and others are served."""
    stubs, deaf = scene.tcp.operator, []
    names = [f"flood-{number}" for number in range(4)]
    for name in names:
        await stubs.run(name, "value 1")  # so that its sandbox is there before
    async with scene.attacked():
        for name in names:
            start = ex.Start(notebook_id=name, source=ex.NewCell(cell_id="flood", source="flood 5000"))
            connection = await Connection.open(f"unix:{scene.yard.folder}/c.sock")
            begin = frame(HEADERS, END_HEADERS, 1, call("/cellyard.v1.Executions/Execute"))
            await connection.send(begin, frame(DATA, 1, 1, message(start.SerializeToString())))
            deaf.append(connection)
        await scene.others_work()
        for name in names:
            assert await last_seq(stubs, name) > 5000
        for connection in deaf:
            connection.close()


async def last_seq(stubs: Stubs, notebook: str) -> int:
    """How many events the notebook's second execution has, once it has ended."""
    async with asyncio.timeout(WITHIN):
        found: Sequence[ex.Execution] = ()
        while len(found) < 2:
            found = (await stubs.executions.List(ex.ListExecutions(notebook_id=notebook))).executions
        follow = ex.AttachExecution(notebook_id=notebook, execution_id=found[0].execution_id)
        return [each.seq async for each in stubs.executions.Attach(follow)][-1]
