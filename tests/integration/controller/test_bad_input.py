"""Whatever comes over the wire: a typed error that names the thing, nothing lost, and nobody else disturbed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellyard
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sessions_pb2 as se

from .conftest import Stubs, Yard
from .test_access import Tcp, reason

LONG = "x" * 257
VERY_LONG = "y" * 1_000_000


@dataclass(frozen=True)
class Bystander:
    """Somebody whose cell runs meanwhile, and who has a notebook that nobody else may touch."""

    stubs: Stubs
    metadata: tuple[tuple[str, str], ...]
    execution_id: str


async def state(who: Bystander) -> tuple[Any, Any]:
    """All that the bystander has."""
    cells = await who.stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="mine"), metadata=who.metadata)
    executions = await who.stubs.executions.List(ex.ListExecutions(notebook_id="mine"), metadata=who.metadata)
    return cells, executions


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    """Tenants over TCP, the operator over a unix socket."""
    yard.config["sandboxes"] = {}  # clients of 100 MB in this process are no reason to find an agent silent
    tcp = Tcp(await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0")), yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


@pytest.fixture
async def bystander(tcp: Tcp, yard: Yard) -> AsyncIterator[Bystander]:
    """Whose cell runs during the test, and ends well after it, in a notebook that is as it was."""
    stubs, metadata = await tcp.tenant("bystander")
    cell = nb.CreateCellRequest(notebook_id="mine", cell_id="mine", source="x = 1")
    await stubs.notebooks.CreateCell(cell, metadata=metadata)
    start = ex.Start(notebook_id="mine", source=ex.NewCell(cell_id="runs", source="print a\ngate g\nprint b"))
    stream = aiter(stubs.executions.Execute(start, metadata=metadata))
    who = Bystander(stubs, metadata, (await anext(stream)).accepted.execution_id)
    text = ""
    async for event in stream:
        if event.HasField("output"):
            text = event.output.stream.text
            break
    before = await state(who)
    yield who
    assert await state(who) == before
    yard.runtime.open("g")
    events = [event async for event in stream]
    assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED
    text += "".join(event.output.stream.text for event in events if event.HasField("output"))
    assert text == "a\nb\n"


async def refusal(call: Any) -> tuple[str, str]:
    """The reason and the words of a refused call, of one answer or of a stream."""

    async def answer() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answer()
    return reason(refused.value), refused.value.details() or ""


def on_notebooks(stubs: Stubs, notebook: str, cell: str = "mine", execution: str = "e") -> Iterator[tuple[str, Any]]:
    """Every call that needs a notebook which is there, by its name, not made yet."""
    n, e, k = stubs.notebooks, stubs.executions, stubs.kernels
    at = {"notebook_id": notebook}
    yield "GetCell", partial(n.GetCell, nb.GetCellRequest(**at, cell_id=cell))
    yield "ListCells", partial(n.ListCells, nb.ListCellsRequest(**at))
    yield "SetSource", partial(n.SetSource, nb.SetSourceRequest(**at, cell_id=cell, source="gone"))
    yield "SpliceSource", partial(n.SpliceSource, nb.SpliceSourceRequest(**at, cell_id=cell, text="gone"))
    yield "MoveCell", partial(n.MoveCell, nb.MoveCellRequest(**at, cell_id=cell))
    yield "DeleteCell", partial(n.DeleteCell, nb.DeleteCellRequest(**at, cell_id=cell))
    yield (
        "SetCellMetadata",
        partial(n.SetCellMetadata, nb.SetCellMetadataRequest(**at, cell_id=cell, metadata_json='{"a": 1}')),
    )
    yield "SetCellType", partial(n.SetCellType, nb.SetCellTypeRequest(**at, cell_id=cell, cell_type="raw"))
    yield "ClearOutputs", partial(n.ClearOutputs, nb.ClearOutputsRequest(**at, cell_id=cell))
    yield "GetMetadata", partial(n.GetMetadata, nb.GetMetadataRequest(**at, key="k"))
    yield "Export", partial(n.Export, nb.ExportRequest(**at))
    yield "Delete", partial(n.Delete, nb.DeleteNotebook(**at))
    yield "Attach", partial(e.Attach, ex.AttachExecution(**at, execution_id=execution))
    yield "Get", partial(e.Get, ex.GetExecution(**at, execution_id=execution))
    yield "List", partial(e.List, ex.ListExecutions(**at))
    yield "Cancel", partial(e.Cancel, ex.CancelExecution(**at, execution_id=execution))
    yield "kernel", partial(k.Get, ker.GetKernel(**at))
    yield "interrupt", partial(k.Interrupt, ker.InterruptKernel(**at))
    yield "restart", partial(k.Restart, ker.RestartKernel(**at))
    yield "shutdown", partial(k.Shutdown, ker.ShutdownKernel(**at))


async def test_what_another_tenant_has_is_as_unknown_as_what_nobody_has(stubs: Stubs, bystander: Bystander) -> None:
    """`stubs` is the operator, who is another tenant too."""
    foreign = {
        name: await refusal(call()) for name, call in on_notebooks(stubs, "mine", execution=bystander.execution_id)
    }
    unknown = {name: await refusal(call()) for name, call in on_notebooks(stubs, "none", execution="e")}
    assert set(foreign.values()) == {("NOTEBOOK_NOT_FOUND", "notebook 'mine' not found")}
    assert set(unknown.values()) == {("NOTEBOOK_NOT_FOUND", "notebook 'none' not found")}


@pytest.fixture
def stubs(tcp: Tcp) -> Stubs:
    """The operator's services."""
    return tcp.operator


async def test_cells_and_executions_of_another_notebook_are_unknown_here(stubs: Stubs, bystander: Bystander) -> None:
    there = await stubs.run("there", "value 1")
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="here", cell_id="c", source="x"))
    await stubs.run("here", "value 1")
    before = await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="here"))
    for cell in (there.cell_id, "mine", "none", "", "a\0b", LONG):
        for name, call in on_notebooks(stubs, "here", cell):
            if name in ("GetCell", "SetSource", "SpliceSource", "MoveCell", "DeleteCell", "SetCellMetadata"):
                assert await refusal(call()) == ("CELL_NOT_FOUND", f"cell {cell!r} not found"), name
        if cell:
            call = stubs.notebooks.MoveCell(nb.MoveCellRequest(notebook_id="here", cell_id="c", after_cell_id=cell))
            assert (await refusal(call))[0] == "CELL_NOT_FOUND"
        enqueue = stubs.executions.Enqueue(ex.Start(notebook_id="here", cell_id=cell))
        assert (await refusal(enqueue))[0] == "CELL_NOT_FOUND"
    for execution in (there.execution_id, bystander.execution_id, "none", "", "a\0b", LONG):
        for name, call in on_notebooks(stubs, "here", "c", execution):
            if name in ("Attach", "Get", "Cancel"):
                assert await refusal(call()) == ("EXECUTION_NOT_FOUND", f"execution {execution!r} not found"), name
    assert await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="here")) == before


@pytest.mark.parametrize(("bad", "says"), [("", "is empty"), (LONG, "has 257"), ("a\0b", "a\\x00b"), ("a\nb", "a\\nb")])
async def test_ids_that_are_none_are_refused(stubs: Stubs, bystander: Bystander, bad: str, says: str) -> None:
    for name, call in on_notebooks(stubs, bad):
        why, words = await refusal(call())
        assert (why, "the notebook id" in words, says in words) == ("INVALID_REQUEST", True, True), (name, words)
    n, e = stubs.notebooks, stubs.executions
    calls = {
        "the notebook id": [
            n.CreateCell(nb.CreateCellRequest(notebook_id=bad, cell_id="c")),
            n.SetMetadata(nb.SetMetadataRequest(notebook_id=bad, key="k", value="v")),
            n.Import(nb.ImportRequest(notebook_id=bad, content=b"{}")),
            e.Enqueue(ex.Start(notebook_id=bad, cell_id="c")),
            e.Execute(ex.Start(notebook_id=bad, cell_id="c")),
            stubs.kernels.Start(ker.StartKernel(notebook_id=bad)),
            stubs.sessions.Attach(se.AttachSession(notebook_id=bad, session_id="s")),
        ],
        "the cell id": [
            n.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id=bad)),
            e.Enqueue(ex.Start(notebook_id="nb", source=ex.NewCell(cell_id=bad, source="1"))),
        ],
        "the metadata key": [n.SetMetadata(nb.SetMetadataRequest(notebook_id="nb", key=bad, value="v"))],
    }
    if bad:
        calls["the request id"] = [n.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", request_id=bad))]
        calls["the session id"] = [
            stubs.sessions.Attach(se.AttachSession(notebook_id="nb", session_id=bad)),
            e.Enqueue(ex.Start(notebook_id="nb", session_id=bad, cell_id="c")),
        ]
    for what, each in calls.items():
        for call in each:
            why, words = await refusal(call)
            assert (why, what in words, says in words) == ("INVALID_REQUEST", True, True), words
    assert not (await n.List(nb.ListNotebooks())).notebooks, "nothing was made"


async def test_an_id_of_a_megabyte_is_refused_in_a_sentence_all_the_same(stubs: Stubs, bystander: Bystander) -> None:
    await stubs.run("here", "value 1")
    for name, call in on_notebooks(stubs, "here", VERY_LONG, VERY_LONG):
        if name in ("GetCell", "SetSource", "DeleteCell", "Attach", "Get", "Cancel"):
            why, words = await refusal(call())
            assert why in ("CELL_NOT_FOUND", "EXECUTION_NOT_FOUND"), name
            assert "yyyy" in words
            assert len(words) < 5000
    assert (await refusal(stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id=VERY_LONG))))[
        0
    ] == "INVALID_REQUEST"


async def test_numbers_that_make_no_sense_are_refused(stubs: Stubs, bystander: Bystander) -> None:
    n, e = stubs.notebooks, stubs.executions
    await n.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", source="x"))
    new = ex.NewCell(cell_id="n", source="1")
    calls = {
        "-1": [
            n.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="n", index=-1)),
            n.SpliceSource(nb.SpliceSourceRequest(notebook_id="nb", cell_id="c", index=-1, text="y")),
            n.SpliceSource(nb.SpliceSourceRequest(notebook_id="nb", cell_id="c", delete_count=-1, text="y")),
            n.List(nb.ListNotebooks(limit=-1)),
            e.List(ex.ListExecutions(notebook_id="nb", limit=-1)),
            e.Enqueue(ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="n", source="1", index=-1))),
            e.Enqueue(ex.Start(notebook_id="nb", source=new, timeout_s=-1)),
        ],
        "nan": [e.Enqueue(ex.Start(notebook_id="nb", source=new, timeout_s=math.nan))],
        "inf": [
            e.Enqueue(ex.Start(notebook_id="nb", source=new, timeout_s=math.inf)),
            e.Enqueue(ex.Start(notebook_id="nb", source=new, kernel=ker.KernelSettings(ttl_s=math.inf))),
        ],
        "2": [n.SpliceSource(nb.SpliceSourceRequest(notebook_id="nb", cell_id="c", index=2, text="y"))],
    }
    for says, each in calls.items():
        for call in each:
            why, words = await refusal(call)
            assert (why, says in words) == ("INVALID_REQUEST", True), words
    found = await n.ListCells(nb.ListCellsRequest(notebook_id="nb"))
    assert [(cell.cell_id, cell.source) for cell in found.cells] == [("c", "x")]


async def test_sources_that_are_too_large_are_refused(stubs: Stubs, bystander: Bystander, yard: Yard) -> None:
    limit = yard.controller._config.limits.source
    async with cellyard.AsyncSession(notebook_id="nb", endpoint=f"unix:{yard.folder}/c.sock") as session:
        largest = await session.create_cell("x" * limit)
    over = "x" * (limit + 1)
    for call in (
        stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="n", source=over)),
        stubs.notebooks.SetSource(nb.SetSourceRequest(notebook_id="nb", cell_id=largest, source=over)),
        stubs.notebooks.SpliceSource(nb.SpliceSourceRequest(notebook_id="nb", cell_id=largest, text="y")),
        stubs.executions.Enqueue(ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="n", source=over))),
    ):
        why, words = await refusal(call)
        assert (why, str(limit + 1) in words) == ("INVALID_REQUEST", True), words
    huge = "x" * 100_000_000  # past what a message may have
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as refused:
        await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="n", source=huge))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with cellyard.AsyncSession(notebook_id="nb", endpoint=f"unix:{yard.folder}/c.sock") as session:
        for call in (session.create_cell(huge), session.run(huge), session.set_source(largest, huge)):
            with pytest.raises(cellyard.InvalidRequest, match=r"source has 100000000 bytes|larger than max"):
                await call
        assert [(cell.id, len(cell.source)) for cell in await session.get_cells()] == [(largest, limit)]


@asynccontextmanager
async def raw(yard: Yard) -> AsyncIterator[grpc.aio.Channel]:
    """A channel for bytes that are no message."""
    async with grpc.aio.insecure_channel(f"unix:{yard.folder}/c.sock") as channel:
        yield channel


def call_raw(channel: grpc.aio.Channel, method: str, content: bytes, *, stream: bool = False) -> Any:
    """Sends these bytes to a method."""
    make = channel.unary_stream if stream else channel.unary_unary
    return make(method, request_serializer=lambda sent: sent, response_deserializer=lambda got: got)(
        content, timeout=20
    )


def field(number: int, content: bytes) -> bytes:
    """A field of text or bytes, of less than 128."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a\xed\xa0\x80b", b"\xc0\x80", b"\xf8\x88\x80\x80\x80"])
async def test_text_that_is_no_utf_8_is_refused(stubs: Stubs, bystander: Bystander, yard: Yard, text: bytes) -> None:
    """Halves of surrogate pairs among it: the second one."""
    service = "/cellyard.v1.Notebooks"
    async with raw(yard) as channel:
        for method, content, stream in (
            (f"{service}/CreateCell", field(1, text) + field(2, b"c"), False),
            (f"{service}/CreateCell", field(1, b"nb") + field(2, text), False),
            (f"{service}/ListCells", field(1, text), False),
            (f"{service}/Export", field(1, text), True),
            ("/cellyard.v1.Executions/Execute", field(1, text), True),
        ):
            why, words = await refusal(call_raw(channel, method, content, stream=stream))
            assert (why, method.rpartition("/")[2] in words) == ("INVALID_REQUEST", True), words
    assert not (await stubs.notebooks.List(nb.ListNotebooks())).notebooks


async def test_half_a_surrogate_pair_in_json_is_kept_or_refused(stubs: Stubs, bystander: Bystander) -> None:
    """JSON can say it, UTF-8 cannot."""
    n = stubs.notebooks
    made = nb.CreateCellRequest(notebook_id="nb", cell_id="c", source="x", metadata_json='{"k": "\\ud800"}')
    assert (await n.CreateCell(made)).metadata_json == '{"k": "\\ud800"}'
    key = nb.SetCellMetadataRequest(notebook_id="nb", cell_id="c", metadata_json='{"\\ud800": 1}')
    assert "surrogate" in (await refusal(n.SetCellMetadata(key)))[1]
    metadata = nb.SetMetadataRequest(notebook_id="nb", key="notebook_metadata", value='{"\\ud800": "\\udfff"}')
    assert "surrogate" in (await refusal(n.SetMetadata(metadata)))[1]
    parts = [chunk.content async for chunk in n.Export(nb.ExportRequest(notebook_id="nb"))]
    assert b"\\ud800" in b"".join(parts)


async def test_a_nul_in_text_is_kept(stubs: Stubs, bystander: Bystander) -> None:
    n = stubs.notebooks
    text = "print a\0b"
    assert (await n.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", source=text))).source == text
    ran = await stubs.run("nb", text)
    assert ran.source == text
    await n.SetMetadata(nb.SetMetadataRequest(notebook_id="nb", key="k", value=text))
    assert (await n.GetMetadata(nb.GetMetadataRequest(notebook_id="nb", key="k"))).value == text


def methods() -> list[tuple[str, Any, bool]]:
    """Every method that takes one message: its path, its message, and whether it answers with a stream."""
    from cellyard_proto.v1 import sandboxes_pb2, tenants_pb2

    found = []
    for module in (nb, ex, ker, se, sandboxes_pb2, tenants_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if not method.client_streaming:
                    message = message_factory.GetMessageClass(method.input_type)
                    found.append((f"/{service.full_name}/{method.name}", message, method.server_streaming))
    return found


METHODS = {path: (message, stream) for path, message, stream in methods()}


@st.composite
def messages(draw: st.DrawFn, message: Any) -> bytes:
    """A message whose fields are whatever fits on the wire, some of it cut or overwritten."""
    filled = message()
    for descriptor in message.DESCRIPTOR.fields:
        if descriptor.message_type is not None or not draw(st.booleans()):
            continue
        kind = {
            descriptor.TYPE_STRING: st.sampled_from(["nb", "c", "", "\0", LONG, "{}", "{", "ä😀"])
            | st.text(max_size=20),
            descriptor.TYPE_BYTES: st.binary(max_size=50),
            descriptor.TYPE_BOOL: st.booleans(),
            descriptor.TYPE_DOUBLE: st.floats(),
            descriptor.TYPE_ENUM: st.integers(-1, 20),
        }.get(descriptor.type, st.integers(-(2**31), 2**31 - 1))
        if descriptor.is_repeated:
            getattr(filled, descriptor.name).extend(draw(st.lists(kind, max_size=3)))
        else:
            setattr(filled, descriptor.name, draw(kind))
    content = bytearray(filled.SerializeToString())
    if content and draw(st.booleans()):
        at = draw(st.integers(0, len(content) - 1))
        content[at : at + 4] = draw(st.binary(max_size=8))
    return bytes(content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_message_makes_the_controller_fail(stubs: Stubs, bystander: Bystander, yard: Yard, data: Any) -> None:
    path = data.draw(st.sampled_from(sorted(METHODS)), "method")
    message, stream = METHODS[path]
    content = data.draw(messages(message), "content")
    async with raw(yard) as channel:
        call = call_raw(channel, path, content, stream=stream)
        try:
            if stream:
                await asyncio.wait_for(call.read(), 1)
                call.cancel()
            else:
                await call
        except TimeoutError:
            call.cancel()  # it waits for what may happen
        except grpc.aio.AioRpcError as failed:
            if failed.code() is not grpc.StatusCode.UNIMPLEMENTED:
                assert reason(failed), failed  # noqa: PT017 - it may as well go through
