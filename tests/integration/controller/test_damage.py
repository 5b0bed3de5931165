"""Notebooks whose stored document is damaged: set aside and reported, and nobody else is disturbed."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellyard_controller.notebooks import set_aside
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sessions_pb2

from .conftest import Stubs, Yard
from .test_access import reason

PAGE = 4096


def chunks(yard: Yard, notebook: str) -> list[tuple[int, int, bytes]]:
    """The rows of a notebook's document."""
    with closing(sqlite3.connect(yard.folder / "data" / "cellyard.sqlite")) as raw:
        return raw.execute(
            "SELECT key, number, chunk FROM document_chunks JOIN notebooks ON notebook_key = key"
            " WHERE notebook_id = ? ORDER BY number",
            (notebook,),
        ).fetchall()


def damage(yard: Yard, notebook: str, number: int = 1, chunk: bytes | None = None) -> bytes:
    """Overwrites one chunk, or some bytes in its middle; returns what is stored then."""
    rows = chunks(yard, notebook)
    key, _, old = rows[number]
    middle = len(old) // 2
    new = old[:middle] + bytes(byte ^ 0x55 for byte in old[middle : middle + 8]) + old[middle + 8 :]
    with closing(sqlite3.connect(yard.folder / "data" / "cellyard.sqlite")) as raw, raw:
        raw.execute(
            "UPDATE document_chunks SET chunk = ? WHERE notebook_key = ? AND number = ?",
            (new if chunk is None else chunk, key, number),
        )
    return b"".join(each for _, _, each in chunks(yard, notebook))


async def add(stubs: Stubs, notebook: str, *sources: str) -> list[str]:
    """Adds cells; returns the sources that the notebook has then."""
    for number, source in enumerate(sources):
        await stubs.notebooks.CreateCell(
            nb.CreateCellRequest(notebook_id=notebook, cell_id=f"c{number}", source=source)
        )
    return await sources_of(stubs, notebook)


async def sources_of(stubs: Stubs, notebook: str) -> list[str]:
    found = await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id=notebook))
    return [cell.source for cell in found.cells]


async def refused(call: Any) -> tuple[str, str]:
    """The reason of a refusal, and its words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason(caught.value), caught.value.details() or ""


async def test_a_damaged_document_is_set_aside_and_the_rest_opens(yard: Yard) -> None:
    stubs = await yard.start()
    ran = await stubs.run("bad", "print kept\nvalue 1")
    await add(stubs, "bad", "a", "b")
    await add(stubs, "good", "c")
    await yard.stop()
    content = damage(yard, "bad")
    stubs = await yard.start()

    for call in (
        lambda: stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="bad")),
        lambda: stubs.notebooks.GetCell(nb.GetCellRequest(notebook_id="bad", cell_id="c0")),
        lambda: stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="bad", cell_id="n", request_id="n")),
        lambda: stubs.notebooks.SetMetadata(nb.SetMetadataRequest(notebook_id="bad", key="k", value="v")),
        lambda: stubs.executions.Enqueue(ex.Start(notebook_id="bad", source=ex.NewCell(cell_id="n", source="value 1"))),
        lambda: stubs.executions.Enqueue(ex.Start(notebook_id="bad", cell_id="c0")),
    ):
        why, says = await refused(call())
        (file,) = set_aside.kept(yard.folder / "data")
        assert why == "CONTROLLER_UNAVAILABLE"
        assert "'bad' is damaged" in says
        assert str(file) in says
        assert file.read_bytes() == content

    assert await sources_of(stubs, "good") == ["c"]
    found = await stubs.executions.Get(ex.GetExecution(notebook_id="bad", execution_id=ran.execution_id))
    assert found == ran, "executions do not need the document"
    assert (await stubs.run("good", "value 2")).value.json == "2"

    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="bad"))
    assert set_aside.kept(yard.folder / "data") == []
    assert (await refused(stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="bad"))))[0] == "NOTEBOOK_NOT_FOUND"
    assert await add(stubs, "bad", "anew") == ["anew"]


async def test_a_damaged_document_does_not_keep_the_controller_from_starting(yard: Yard) -> None:
    """Its notebook has something to go on with, so it is opened at the start."""
    stubs = await yard.start(on_stop="keep")
    stream = aiter(stubs.start("bad", "gate never"))
    running = (await anext(stream)).accepted
    await yard.runtime.reached("never")
    await yard.stop()
    damage(yard, "bad")
    stubs = await yard.start()
    lost = await stubs.executions.Get(ex.GetExecution(notebook_id="bad", execution_id=running.execution_id))
    assert (lost.end, lost.end_reason) == (ex.EXECUTION_END_LOST, "runtime_lost")
    assert (await stubs.run("good", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_document_that_is_damaged_while_it_is_open_is_not_built_on(yard: Yard) -> None:
    """Only after a commit failed is it read again; what is in memory is then not what is stored."""
    stubs = await yard.start()
    await add(stubs, "nb", "a")
    attached = stubs.sessions.Attach(sessions_pb2.AttachSession(notebook_id="nb", session_id="s"))
    assert await attached.read()
    before = await sources_of(stubs, "nb")
    room = yard.controller.rooms._seats[next(iter(yard.controller.rooms._seats))].room
    good = chunks(yard, "nb")[1][2]
    damage(yard, "nb")
    await room._inbox.ask(lambda: room._pages.take_back(ValueError("a commit failed")))
    why, says = await refused(stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb")))
    assert (why, "cannot be read back" in says) == ("CONTROLLER_UNAVAILABLE", True)
    create = nb.CreateCellRequest(notebook_id="nb", cell_id="n", request_id="n", source="b")
    assert (await refused(stubs.notebooks.CreateCell(create)))[0] == "CONTROLLER_UNAVAILABLE"
    damage(yard, "nb", chunk=good)
    await stubs.notebooks.CreateCell(create)
    assert await sources_of(stubs, "nb") == [*before, "b"]
    attached.cancel()


@pytest.fixture
async def running(yard: Yard) -> tuple[Yard, Stubs]:
    """A controller that all examples of a property share."""
    return yard, await yard.start()


_NUMBERS = iter(range(10**9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_is_damaged_the_controller_opens_it_whole_or_sets_it_aside(
    running: tuple[Yard, Stubs], data: st.DataObject
) -> None:
    yard, stubs = running
    notebook = f"nb-{next(_NUMBERS)}"
    whole = await add(stubs, notebook, *(f"x = {number}" for number in range(4)))
    rows = chunks(yard, notebook)
    which = data.draw(st.integers(0, len(rows) - 1), "which")
    chunk = bytearray(rows[which][2])
    at = data.draw(st.integers(0, len(chunk) - 1), "at")
    if data.draw(st.booleans(), "truncate"):
        del chunk[at:]
    else:
        garbage = data.draw(st.binary(min_size=1, max_size=16), "garbage")
        chunk[at : at + len(garbage)] = garbage
    content = damage(yard, notebook, which, bytes(chunk))
    try:
        now, why = await sources_of(stubs, notebook), ""
    except grpc.aio.AioRpcError as failed:
        now, why = [], reason(failed)
    kept = [file.read_bytes() for file in set_aside.kept(yard.folder / "data")]
    assert (now, why, kept) in ((whole, "", []), ([], "CONTROLLER_UNAVAILABLE", [content]))
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id=notebook))


async def test_pages_of_the_database_that_are_garbage_cost_the_notebooks_on_them(yard: Yard) -> None:
    stubs = await yard.start()
    await add(stubs, "before", "a")
    large = random.Random(1).randbytes(50_000).hex()  # which does not get small when it is compressed
    await add(stubs, "bad", large, "small")
    await add(stubs, "after", "b")
    await yard.stop()
    path = yard.folder / "data" / "cellyard.sqlite"
    content = path.read_bytes()
    inside = max((row[2] for row in chunks(yard, "bad")), key=len)
    found = content.index(inside[20_000:20_040]) // PAGE * PAGE
    path.write_bytes(content[:found] + b"\xa5" * PAGE + content[found + PAGE :])

    stubs = await yard.start()
    why, says = await refused(stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="bad")))
    (file,) = set_aside.kept(yard.folder / "data")
    assert why == "CONTROLLER_UNAVAILABLE"
    assert "malformed" in says
    assert str(file) in says
    assert await sources_of(stubs, "before") == ["a"]
    assert await sources_of(stubs, "after") == ["b"]
    assert (await stubs.run("after", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    why, says = await refused(stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="bad")))
    assert (why, "malformed" in says) == ("CONTROLLER_UNAVAILABLE", True)
    assert await sources_of(stubs, "after") == ["b", "value 1"]
