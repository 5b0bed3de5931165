"""Large parts of outputs through a whole controller: files by their hash, referred to, read in chunks, collected."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

import cellyard
from cellyard_controller import upkeep
from cellyard_controller.executions import blob_uses, parts, retention
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import outputs_pb2

from .conftest import Stubs, Yard

LARGE = "x" * 100_000


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def files(yard: Yard) -> set[str]:
    """The digests of what is on disk."""
    found = (path for path in (yard.folder / "data" / "blobs").glob("*/*"))
    return {f"sha256:{path.parent.name}{path.name}" for path in found}


async def read(stubs: Stubs, digest: str, notebook: str = "nb", offset: int = 0) -> list[ex.BlobChunk]:
    request = ex.ReadBlobRequest(notebook_id=notebook, digest=digest, offset=offset)
    return [chunk async for chunk in stubs.executions.ReadBlob(request)]


async def refused(stubs: Stubs, digest: str, notebook: str = "nb", offset: int = 0) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await read(stubs, digest, notebook, offset)
    return error.value.code()


async def create(stubs: Stubs, source: str, cell_id: str = "c", notebook: str = "nb") -> None:
    await stubs.notebooks.CreateCell(
        nb.CreateCellRequest(notebook_id=notebook, cell_id=cell_id, cell_type="code", source=source)
    )


async def rerun(stubs: Stubs, cell_id: str = "c") -> list[ex.ExecutionEvent]:
    return [event async for event in stubs.executions.Execute(ex.Start(notebook_id="nb", cell_id=cell_id))]


def session(yard: Yard, notebook: str = "nb") -> cellyard.AsyncSession:
    return cellyard.AsyncSession(notebook, endpoint=f"unix:{yard.folder}/c.sock")


async def put_in(stubs: Stubs, notebook: str, *texts: str) -> None:
    """A new notebook that shows these texts; it has no kernel."""
    outputs = [{"output_type": "display_data", "data": {"text/html": text}, "metadata": {}} for text in texts]
    cell = {"cell_type": "code", "metadata": {}, "source": "", "execution_count": 1, "outputs": outputs}
    content = json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell]})
    request = nb.ImportRequest(notebook_id=notebook, request_id=str(uuid.uuid4()), content=content.encode())
    await stubs.notebooks.Import(request)


async def test_messages_stay_small_however_large_outputs_are(stubs: Stubs, yard: Yard) -> None:
    page = "é" * 40_000
    document = json.dumps([1.0, {"a": LARGE}])
    await create(stubs, f"print {LARGE}\nhtml {page}\njson {document}\nprint small")
    events = await rerun(stubs)
    texts = {f"{LARGE}\n": False, page: False, document: True}
    blobs = {
        digest: outputs_pb2.Blob(digest=digest, size=len(text.encode()), json=is_json)
        for text, is_json in texts.items()
        for digest in [digest_of(text)]
    }
    assert [event.ByteSize() < 1000 for event in events[1:]] == [True] * (len(events) - 1)
    shown = (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"))).cells[0].outputs
    assert shown[0].stream.blob == blobs[digest_of(f"{LARGE}\n")]
    assert shown[1].display_data.data["text/html"].blob == blobs[digest_of(page)]
    assert shown[2].display_data.data["application/json"].blob == blobs[digest_of(document)]
    assert shown[3].stream.text == "small\n"
    got = ex.GetExecution(notebook_id="nb", execution_id=events[0].accepted.execution_id)
    assert list((await stubs.executions.Get(got)).outputs) == list(shown)
    assert files(yard) == set(blobs)
    for text in texts:
        assert b"".join(chunk.content for chunk in await read(stubs, digest_of(text))).decode() == text
    for path in [yard.folder / "data" / "blobs", *(yard.folder / "data" / "blobs").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


async def test_a_committed_part_is_not_in_memory(stubs: Stubs, yard: Yard) -> None:
    """Neither of a running cell that has displayed it, nor of one that has ended."""
    stream = aiter(stubs.start("nb", f"html {LARGE}\nprint {LARGE}\ngate g\nprint {LARGE}"))
    first = (await anext(stream)).accepted
    async for event in stream:
        if event.output.HasField("stream"):
            break
    seat = next(iter(yard.controller.rooms._seats.values()))
    live = seat.room._journal.find(first.execution_id)
    assert live is not None
    assert LARGE not in str(live._fold._outputs[0])
    yard.runtime.open("g")
    async for _ in stream:
        pass
    assert LARGE not in str(live._fold._outputs) + str(live.log._window)
    assert live.log._size < 2000


async def test_reading_is_in_chunks_and_goes_on_anywhere(stubs: Stubs) -> None:
    text = "".join(f"{number}," for number in range(100_000))
    await stubs.run("nb", f"html {text}")
    digest, size = digest_of(text), len(text)
    chunks = await read(stubs, digest)
    assert [len(chunk.content) for chunk in chunks] == [256 * 1024, 256 * 1024, size - 512 * 1024]
    assert {chunk.size for chunk in chunks} == {size}
    assert b"".join(chunk.content for chunk in await read(stubs, digest, offset=300_001)).decode() == text[300_001:]
    assert await read(stubs, digest, offset=size) == [ex.BlobChunk(size=size)]
    for offset in (-1, size + 1):
        assert await refused(stubs, digest, offset=offset) == grpc.StatusCode.INVALID_ARGUMENT


async def test_only_what_a_notebook_shows_is_read_through_it(stubs: Stubs, yard: Yard) -> None:
    """Whoever knows the hash of somebody's output learns nothing by it, not even whether it is there."""
    await stubs.run("nb", f"html {LARGE}")
    await stubs.run("other", "value 1")
    known = digest_of(LARGE)
    assert await refused(stubs, known, "other") == grpc.StatusCode.NOT_FOUND
    assert await refused(stubs, digest_of("never"), "nb") == grpc.StatusCode.NOT_FOUND
    assert await refused(stubs, known, "no such notebook") == grpc.StatusCode.NOT_FOUND
    for bad in ("", "x", known[:-1], known.upper(), f"{known}\n", "sha256:" + "../" * 21 + "x", known + "/../x"):
        assert await refused(stubs, bad) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("reruns", [False, True])
async def test_a_kernel_cannot_forge_a_reference(stubs: Stubs, yard: Yard, reruns: bool) -> None:
    """It shows what looks like one, in every form that one has: it is shown as what it is, and gives no access."""
    await stubs.run("victim", f"html {LARGE}")
    ref = [digest_of(LARGE), len(LARGE), False]
    forms = [
        {"blobs": {"application/json": ref}},
        {"output_type": "stream", "text": None, "blobs": {"text": ref}},
        {"data": {"text/html": None}, "blobs": {"text/html": ref}},
        {"blob": {"digest": ref[0], "size": ref[1]}},
    ]
    source = "\n".join(f"json {json.dumps(form)}" for form in forms)
    await create(stubs, source, notebook="nb")
    for _ in range(1 + reruns):
        await rerun(stubs)
    await yard.stop()
    stubs = await yard.start()  # what is in memory is read from the store
    outputs = (await stubs.notebooks.GetCell(nb.GetCellRequest(notebook_id="nb", cell_id="c"))).outputs
    assert [json.loads(output.display_data.data["application/json"].json) for output in outputs] == forms
    assert await refused(stubs, ref[0], "nb") == grpc.StatusCode.NOT_FOUND


async def test_an_import_cannot_forge_a_reference(stubs: Stubs) -> None:
    ref = [digest_of(LARGE), len(LARGE), False]
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "x"}, "blobs": {"text/html": ref}}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "execution_count": 1, "outputs": [output]}
    content = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}).encode()
    with pytest.raises(grpc.aio.AioRpcError, match="blobs"):
        await stubs.notebooks.Import(nb.ImportRequest(notebook_id="nb", request_id="r", content=content))


async def test_the_same_output_is_one_file_and_goes_with_its_last_notebook(stubs: Stubs, yard: Yard) -> None:
    store = yard.controller._store
    for notebook in ("one", "two"):
        await put_in(stubs, notebook, LARGE, LARGE)
    assert files(yard) == {digest_of(LARGE)}
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="one"))
    assert await blob_uses.collect(store) == 0
    assert len(await read(stubs, digest_of(LARGE), "two")) == 1
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="two"))
    assert await blob_uses.collect(store) == 1
    assert files(yard) == set()


async def test_collection_takes_nothing_that_comes_into_use_beside_it(stubs: Stubs, yard: Yard) -> None:
    """The same content comes and goes while files are collected without a pause."""
    over = asyncio.Event()

    async def collect() -> int:
        rounds = 0
        while not over.is_set():
            await blob_uses.collect(yard.controller._store)
            rounds += 1
        return rounds

    async def work(notebook: str) -> None:
        for number in range(30):
            await put_in(stubs, notebook, f"{LARGE}{number % 2}")
            assert len(await read(stubs, digest_of(f"{LARGE}{number % 2}"), notebook)) == 1
            await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id=notebook))

    collecting = asyncio.ensure_future(collect())
    await asyncio.gather(work("one"), work("two"))
    over.set()
    assert await collecting > 1
    await blob_uses.collect(yard.controller._store)
    assert files(yard) == set()


async def test_the_folder_does_not_grow_with_reruns(stubs: Stubs, yard: Yard) -> None:
    await create(stubs, "")
    for number in range(retention.KEPT + 20):
        source = f"html {LARGE}{number}"
        await stubs.notebooks.SetSource(nb.SetSourceRequest(notebook_id="nb", cell_id="c", source=source))
        await rerun(stubs)
    assert len(files(yard)) == retention.KEPT + 20
    await yard.stop()  # from memory nothing expires
    await yard.start()
    await upkeep.once(yard.controller._store, time.time() + 2 * retention.EVENTS_KEPT_S)
    assert len(files(yard)) == retention.KEPT + 1  # the cell's last one is kept besides


async def test_what_was_cleared_goes_with_the_single_events(stubs: Stubs, yard: Yard) -> None:
    run = await stubs.run("nb", f"html {LARGE}1\nclear\nhtml {LARGE}2\nprint {LARGE}\nprint {LARGE}")
    printed = f"{LARGE}\n"
    kept = {digest_of(f"{LARGE}2"), digest_of(printed * 2)}
    assert files(yard) == kept | {digest_of(f"{LARGE}1"), digest_of(printed)}
    await yard.stop()
    stubs = await yard.start()
    await upkeep.once(yard.controller._store, time.time() + 2 * retention.EVENTS_KEPT_S)
    assert files(yard) == kept
    request = ex.AttachExecution(notebook_id="nb", execution_id=run.execution_id)
    events = [event async for event in stubs.executions.Attach(request)]
    assert [event.output for event in events if event.HasField("output")] == list(run.outputs)
    for digest in kept:
        assert await read(stubs, digest)


async def test_what_comes_after_the_end_is_added_for_those_who_read_it(stubs: Stubs, yard: Yard) -> None:
    await stubs.run("nb", f"display d {LARGE}\nprint {LARGE}")
    await stubs.run("nb", f"update d {LARGE}new")
    async with session(yard) as reader:
        await reader.connect()
        cell = (await reader.get_cells())[0]
    display, printed = cell.outputs
    assert display.data == {"text/plain": f"{LARGE}new"}
    assert printed.text == f"{LARGE}\n"


async def test_an_imported_notebook_comes_back_byte_for_byte(
    stubs: Stubs, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = '"\\\n\u2028\U0001f600ä\x00' * 20_000
    cells: list[dict[str, Any]] = []
    for number, data in enumerate([{"text/html": odd}, {"application/json": {"b": [1, 1.0, odd], "a": {}}}]):
        shown = {"output_type": "display_data", "data": data, "metadata": {}}
        text = {"output_type": "stream", "name": "stdout", "text": f"{odd}{number}"}
        cells.append(
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "metadata": {},
                "source": "",
                "execution_count": 1,
                "outputs": [shown, text, {**text, "text": "neighbour"}],
            }
        )
    content = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})

    async def there_and_back(name: str) -> bytes:
        request = nb.ImportRequest(notebook_id=name, request_id=name, content=content.encode())
        await stubs.notebooks.Import(request)
        chunks = stubs.notebooks.Export(nb.ExportRequest(notebook_id=name))
        return b"".join([chunk.content async for chunk in chunks])

    exported = await there_and_back("as files")
    assert len(files(yard)) == 4
    monkeypatch.setattr(parts, "LARGE", 10**9)
    assert exported == await there_and_back("inline")
    assert json.loads(exported)["cells"] == cells
    async with session(yard, "as files") as reader:
        await reader.connect()
        first, second = await reader.get_cells()
    assert first.outputs[0].data == {"text/html": odd}
    assert second.outputs[0].data == {"application/json": {"b": [1, 1.0, odd], "a": {}}}


async def test_a_disk_that_takes_no_files_loses_nothing(stubs: Stubs, yard: Yard) -> None:
    """Output that has happened is kept and written later; an import is refused as a whole."""
    await stubs.run("nb", "value 1")
    blobs = yard.folder / "data" / "blobs"
    aside = blobs.rename(yard.folder / "data" / "aside")
    blobs.write_text("no folder")
    running = asyncio.ensure_future(stubs.run("nb", f"html {LARGE}"))
    seat = next(iter(yard.controller.rooms._seats.values()))
    failures = asyncio.Event()
    ask_again = seat.room._ledger._flush_in

    def note_failure(seconds: float) -> None:
        failures.set()
        ask_again(seconds)

    seat.room._ledger._flush_in = note_failure
    await failures.wait()
    with pytest.raises(grpc.aio.AioRpcError, match="does not take writes") as error:
        await put_in(stubs, "new", LARGE)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert not (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="new"))).cells
    blobs.unlink()
    aside.rename(blobs)
    result = await running
    assert result.outputs[0].display_data.data["text/html"].blob.digest == digest_of(LARGE)
    assert b"".join(chunk.content for chunk in await read(stubs, digest_of(LARGE))).decode() == LARGE


async def test_what_a_crash_left_is_removed_at_the_start(yard: Yard) -> None:
    stubs = await yard.start()
    await stubs.run("nb", f"html {LARGE}")
    await yard.stop()
    blobs: Path = yard.folder / "data" / "blobs"
    (blobs / "unfinished-abc").write_text("half")
    (blobs / "00").mkdir(exist_ok=True)
    (blobs / "00" / ("0" * 62)).write_text("written, never committed")
    await yard.start()
    assert not (blobs / "unfinished-abc").exists()
    await upkeep.once(yard.controller._store, time.time())
    assert files(yard) == {digest_of(LARGE)}
