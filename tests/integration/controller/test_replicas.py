"""Live replicas through a whole controller, by clients of another make: what they do, and what they cannot."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from automerge import core
from google.rpc import error_details_pb2, status_pb2
from tests.unit.replicas.chunks import COMPRESSED, MAGIC, chunk, content, message, number

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import tenants_pb2

from .conftest import Stubs, Yard
from .raw_replica import RawReplica
from .test_documents import Notebook

MIB = 1024 * 1024


def reason(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """The typed reason of a refusal, and whether trying again may help."""
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(raw, bytes), error
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return info.reason, info.metadata.get("retryable") == "true"


async def until(replica: RawReplica, done: Callable[[], bool]) -> None:
    """Listens and answers until something is so."""
    while not done():
        await replica.take()
        await replica.send()


async def test_a_replica_has_the_document_and_what_becomes_of_it(stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a", "b")
    replica = await RawReplica(stubs).open()
    await replica.settle()
    assert replica.cells() == {"a": "print a", "b": "print b"}
    await notebook.call("SetSource", cell_id="a", source="other")
    await notebook.call("DeleteCell", cell_id="b")
    await until(replica, lambda: replica.cells() == {"a": "other"})


async def test_what_a_replica_writes_is_the_documents_at_once(yard: Yard, stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    replica, other = await RawReplica(stubs).open(), await RawReplica(stubs).open()
    await replica.settle()
    await other.settle()
    replica.create("a", "1 + 1")
    replica.create("c", "x" * 30_000)
    replica.create("b", value="one value")
    await replica.settle()
    assert await notebook.ids() == "abc"
    assert (await notebook.cell("a")).source == "1 + 1"
    assert (await notebook.cell("b")).source == "one value"
    assert (await notebook.run("a")).source == "1 + 1"
    await notebook.call("SpliceSource", cell_id="a", index=1, text="0")
    await until(other, lambda: other.cells().get("a") == "10 + 1")
    before = await notebook.export()
    await yard.stop()
    assert await Notebook(await yard.start()).export() == before


async def test_a_removed_cells_waiting_execution_is_cancelled(stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a")
    replica = await RawReplica(stubs).open()
    await replica.settle()
    running = stubs.start("nb", "hang")
    await anext(aiter(running))
    start = ex.Start(notebook_id="nb", request_id="waiting", cell_id="a")
    waiting = aiter(stubs.executions.Execute(start))
    await anext(waiting)
    replica.delete("a")
    await replica.settle()
    end = [event async for event in waiting][-1].finished
    assert (end.end, end.end_reason) == (ex.EXECUTION_END_CANCELLED, "cell_deleted")
    running.cancel()


async def test_what_was_written_without_a_connection_merges(stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    replica = await RawReplica(stubs).open()
    await replica.settle()
    replica.create("a", "hello world")
    await replica.settle()
    for round_ in range(3):
        await replica.cut()
        for _ in range(20):
            replica.insert("a", 0, str(round_))
        for _ in range(20):
            await notebook.call("SpliceSource", cell_id="a", text="!")
        await replica.open()
        await replica.settle()
    source = (await notebook.cell("a")).source
    assert source == replica.cells()["a"]
    assert source.startswith("2" * 20 + "1" * 20 + "0" * 20 + "hello world")
    assert source.count("!") == 60
    assert replica.begun == 4


async def test_a_room_with_a_replica_is_kept(yard: Yard, stubs: Stubs) -> None:
    replica = await RawReplica(stubs).open()
    await replica.settle()
    await Notebook(stubs, "other").create("a")
    assert yard.controller.rooms.unused_since is None
    replica.create("a", "x")
    await replica.settle()
    await replica.cut()
    assert await Notebook(stubs).ids() == "a"


async def test_a_client_that_does_not_read_holds_up_nobody(stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    slow, quick = await RawReplica(stubs).open(), await RawReplica(stubs).open()
    await slow.settle()
    await quick.settle()
    for round_ in range(15):
        quick.create(f"c{round_:02}", value=os.urandom(30_000).hex())
        await quick.settle()
    await until(slow, lambda: slow.cells() == quick.cells())
    assert len((await notebook.call("ListCells")).cells) == 15


async def test_a_deleted_notebook_ends_its_replicas(stubs: Stubs) -> None:
    replica = await RawReplica(stubs).open()
    await replica.settle()
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb", request_id="delete"))
    assert reason(await replica.refusal()) == ("CONTROLLER_UNAVAILABLE", True)
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await replica.open()
    assert reason(gone.value)[0] == "NOTEBOOK_NOT_FOUND"


async def test_a_notebook_has_so_many_replicas(yard: Yard) -> None:
    stubs = await yard.start(replicas={"streams": 1})
    replica = await RawReplica(stubs).open()
    await replica.settle()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await RawReplica(stubs).open()
    assert reason(refused.value)[0] == "QUOTA_EXCEEDED"
    await RawReplica(stubs, "another").open()


async def test_a_revoked_tenants_replicas_end(yard: Yard) -> None:
    stubs = await yard.start()
    created = await stubs.tenants.Create(tenants_pb2.CreateTenant(name="guest"))
    replica = await RawReplica(stubs, authorization=f"Bearer {created.token}").open()
    await replica.settle()
    await stubs.tenants.Revoke(tenants_pb2.RevokeTenant(name="guest"))
    assert reason(await replica.refusal())[0] == "UNAUTHENTICATED"


# What cannot be done


class Victims:
    """Another replica of the same notebook, one of another notebook, and ordinary calls: all go on."""

    def __init__(self, yard: Yard, stubs: Stubs) -> None:
        self.yard, self.stubs = yard, stubs
        self.beside, self.elsewhere = RawReplica(stubs), RawReplica(stubs, "elsewhere")
        self.count = 0

    async def begin(self) -> None:
        """Opens them."""
        await Notebook(self.stubs).create("a")
        for replica in (self.beside, self.elsewhere):
            await (await replica.open()).settle()

    async def go_on(self) -> None:
        """They do as if nothing had happened."""
        self.count += 1
        text = f"{self.count};"
        await Notebook(self.stubs).call("SpliceSource", cell_id="a", index=0, text=text)
        await until(self.beside, lambda: self.beside.cells()["a"].startswith(text))
        for replica in (self.beside, self.elsewhere):
            replica.create(f"v{self.count}", text)
            await replica.settle()
        found = await Notebook(self.stubs, "elsewhere").call("ListCells")
        assert [cell.source for cell in found.cells] == [f"{number + 1};" for number in range(self.count)]
        assert set(self.beside.cells()) == {"a", *(f"v{number + 1}" for number in range(self.count))}


@pytest.fixture
async def victims(yard: Yard) -> Victims:
    """Those who go on, in a controller whose worker has little."""
    stubs = await yard.start(replicas={"memory": 256 * MIB, "deadline": 5.0, "message": 8 * MIB})
    found = Victims(yard, stubs)
    await found.begin()
    return found


async def attacker(victims: Victims) -> RawReplica:
    """A replica like any other, so far."""
    replica = await RawReplica(victims.stubs).open()
    await replica.settle()
    return replica


def _own_change(replica: RawReplica) -> core.Change:
    before = replica.document.get_heads()
    replica.insert("a", 0, "x")
    return replica.document.get_changes(before)[0]


def _bomb(_: RawReplica) -> bytes:
    """Less than half a megabyte that is more than the worker has."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    inside = b"".join(packer.compress(bytes(MIB)) for _ in range(400)) + packer.flush()
    return message([MAGIC + b"abcd" + bytes([COMPRESSED]) + number(len(inside)) + inside])


def _large_value(replica: RawReplica) -> bytes:
    before = replica.document.get_heads()
    replica.create("big", value="x" * 20 * MIB)
    change = replica.document.get_changes(before)[0].bytes
    assert len(change) < MIB
    return message([change])


def _damaged(replica: RawReplica) -> bytes:
    inside = bytearray(content(_own_change(replica).raw_bytes))
    inside[-9] ^= 1
    return message(
        [chunk(bytes(inside))],
    )


def _foreign_actor(replica: RawReplica) -> bytes:
    replica.document.set_actor(b"f" * 32)
    return message([_own_change(replica).bytes])


def _missing(replica: RawReplica) -> bytes:
    _own_change(replica)
    return message([_own_change(replica).bytes])


def _other_document(replica: RawReplica) -> bytes:
    document = core.Document(replica.actor_id)
    with document.transaction() as change:
        change.put_object(core.ROOT, "my own", core.ObjType.Map)
    return message([change.bytes for change in document.get_changes([])])


def _schema(replica: RawReplica) -> bytes:
    before = replica.document.get_heads()
    with replica.document.transaction() as change:
        change.put(core.ROOT, "my own", core.ScalarType.Str, "x")
    return message([change.bytes for change in replica.document.get_changes(before)])


BAD: dict[str, tuple[Callable[[RawReplica], bytes], str]] = {
    "garbage": (lambda _: b"garbage" * 100, "none of automerge's sync protocol"),
    "nothing": (lambda _: b"", "none of automerge's sync protocol"),
    "cut off": (lambda replica: message([_own_change(replica).bytes])[:60], "none of automerge's sync protocol"),
    "bomb": (_bomb, "the message cannot be taken: it took"),
    "large value": (_large_value, "the source of cell 'big' has more than"),
    "damaged": (_damaged, "could not be read again with these changes"),
    "foreign actor": (_foreign_actor, "made by actor 66666666"),
    "missing dependencies": (_missing, "missing dependencies"),
    "other document": (_other_document, "made in another document"),
    "other schema": (_schema, "unknown key 'my own'"),
    "large message": (lambda _: bytes(9 * MIB), "at most 8388608 are allowed"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_message_costs_its_own_stream(victims: Victims, name: str) -> None:
    make, why = BAD[name]
    replica = await attacker(victims)
    bad = make(replica)
    with pytest.raises(grpc.aio.AioRpcError, match=why) as refused:
        await _insist(replica, bad)
    assert reason(refused.value) == ("INVALID_REQUEST", False)
    await victims.go_on()


async def _insist(replica: RawReplica, bad: bytes) -> None:
    """Sends something until it is refused."""
    for _ in range(30):
        await replica.send_bytes(bad)
        await replica.take()
    raise AssertionError("nobody minds")


async def test_a_message_of_100_megabytes_costs_its_own_stream(victims: Victims) -> None:
    replica = await attacker(victims)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _insist(replica, bytes(100 * MIB))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await victims.go_on()


@pytest.mark.parametrize("actor_id", [b"x", b"x" * 32, bytes(33)])
async def test_an_actor_id_that_was_not_given_is_refused(victims: Victims, actor_id: bytes) -> None:
    replica = RawReplica(victims.stubs)
    replica.actor_id = actor_id
    with pytest.raises(grpc.aio.AioRpcError, match="was not given") as refused:
        await replica.open()
    assert reason(refused.value) == ("INVALID_REQUEST", False)
    await victims.go_on()


async def test_an_actor_id_is_one_notebooks(victims: Victims) -> None:
    replica = RawReplica(victims.stubs, "elsewhere")
    replica.actor_id = victims.beside.actor_id
    with pytest.raises(grpc.aio.AioRpcError, match="was not given"):
        await replica.open()


@pytest.mark.parametrize("first", [nb.SyncFromClient(sync=b"B\0\0\0\0"), nb.SyncFromClient()])
async def test_a_stream_begins_by_naming_its_notebook(stubs: Stubs, first: Any) -> None:
    call = stubs.notebooks.Sync()
    await call.write(first)
    with pytest.raises(grpc.aio.AioRpcError, match="first message opens"):
        async for _ in call:
            pass


async def test_a_lost_worker_is_replaced_and_nobody_loses_anything(victims: Victims) -> None:
    worker = victims.yard.controller.replicas
    for _ in range(3):
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await victims.go_on()
    assert victims.beside.begun > 1


async def test_a_worker_that_hangs_is_replaced(victims: Victims) -> None:
    worker = victims.yard.controller.replicas
    replica = await attacker(victims)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    replica.insert("a", 0, "x")
    await replica.send()
    refused = await replica.refusal()
    assert "took longer than 5 s" in (refused.details() or "")
    await victims.go_on()
    assert worker.starts == 2


async def test_the_worker_has_nothing_of_the_controllers(victims: Victims) -> None:
    pid = victims.yard.controller.replicas.pid
    process = Path(f"/proc/{pid}")
    environment = process.joinpath("environ").read_bytes().split(b"\0")
    assert {name.split(b"=")[0] for name in environment if name} <= {b"LD_LIBRARY_PATH", b"PYTHONPATH", b"PYTHONHOME"}
    files = [os.readlink(link) for link in process.joinpath("fd").iterdir()]
    assert len([name for name in files if name.startswith(("pipe:", "socket:"))]) == 2
    memory = f"{process}/statm"  # it may be looking at how much it has
    assert {name for name in files if not name.startswith(("pipe:", "socket:"))} - {memory} == {"/dev/null"}
    await victims.yard.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.name), 0)


async def test_bombs_leave_nothing_in_the_controller(victims: Victims) -> None:
    await _bombard(victims)
    before = _resident()
    for _ in range(3):
        await _bombard(victims)
    await victims.go_on()
    assert _resident() - before < 30 * MIB


async def _bombard(victims: Victims) -> None:
    replica = await attacker(victims)
    bomb = _bomb(replica)
    with pytest.raises(grpc.aio.AioRpcError, match="the message cannot be taken"):
        await _insist(replica, bomb)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
