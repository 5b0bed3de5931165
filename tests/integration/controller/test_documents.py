"""Documents through a whole controller: edited, cleared, exported and imported."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

import grpc
import pytest
from tests.notebook_files import normal

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

_requests = itertools.count(1)


class Notebook:
    """One notebook, with less to type."""

    def __init__(self, stubs: Stubs, notebook_id: str = "nb") -> None:
        self.stubs, self.notebook_id = stubs, notebook_id

    async def call(self, name: str, **fields: Any) -> Any:
        """A call with a request id of its own, where it takes one."""
        method = {"MoveCell": "MoveCellRequest", "Delete": "DeleteNotebook"}.get(name, f"{name}Request")
        message = getattr(nb, method)
        if "request_id" in message.DESCRIPTOR.fields_by_name:
            fields.setdefault("request_id", f"r{next(_requests)}")
        return await getattr(self.stubs.notebooks, name)(message(notebook_id=self.notebook_id, **fields))

    async def create(self, *names: str, cell_type: str = "code") -> None:
        for name in names:
            await self.call("CreateCell", cell_id=name, cell_type=cell_type, source=f"print {name}")

    async def cell(self, cell_id: str) -> Any:
        return await self.call("GetCell", cell_id=cell_id)

    async def ids(self) -> str:
        return "".join(cell.cell_id for cell in (await self.call("ListCells")).cells)

    async def run(self, cell_id: str) -> ex.Execution:
        start = ex.Start(notebook_id=self.notebook_id, request_id=f"r{next(_requests)}", cell_id=cell_id)
        events = [event async for event in self.stubs.executions.Execute(start)]
        get = ex.GetExecution(notebook_id=self.notebook_id, execution_id=events[0].accepted.execution_id)
        return await self.stubs.executions.Get(get)

    async def export(self) -> str:
        chunks = self.stubs.notebooks.Export(nb.ExportRequest(notebook_id=self.notebook_id))
        return b"".join([chunk.content async for chunk in chunks]).decode()

    async def import_(self, notebook: Any, **fields: Any) -> nb.ImportResponse:
        content = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
        return await self.call("Import", content=content, **fields)


@pytest.fixture
async def notebook(stubs: Stubs) -> Notebook:
    return Notebook(stubs)


def file(*cells: dict[str, Any], minor: int = 5, **metadata: Any) -> dict[str, Any]:
    return {"nbformat": 4, "nbformat_minor": minor, "metadata": metadata, "cells": list(cells)}


def code(cell_id: str, source: str = "", *outputs: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {},
        "source": source,
        "outputs": list(outputs),
        "execution_count": count,
    }


def stdout(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


async def test_cells_move_behind_one_another(notebook: Notebook) -> None:
    await notebook.create("a", "b", "c")
    await notebook.call("MoveCell", cell_id="c", after_cell_id="")
    assert await notebook.ids() == "cab"
    await notebook.call("MoveCell", cell_id="c", after_cell_id="a")
    assert await notebook.ids() == "acb"
    for fields in ({"cell_id": "nope"}, {"cell_id": "a", "after_cell_id": "nope"}):
        with pytest.raises(grpc.aio.AioRpcError, match="cell 'nope' not found"):
            await notebook.call("MoveCell", **fields)


async def test_a_source_is_edited_in_part(notebook: Notebook) -> None:
    await notebook.call("CreateCell", cell_id="a", source="añ😀b")
    changed = await notebook.call("SpliceSource", cell_id="a", index=1, delete_count=2, text="xyz")
    cell = await notebook.cell("a")
    assert (cell.source, cell.version, changed.length) == ("axyzb", changed.version, 5)
    await notebook.call("SpliceSource", cell_id="a", text="!", if_version=changed.version)
    with pytest.raises(grpc.aio.AioRpcError, match="changed by somebody else"):
        await notebook.call("SpliceSource", cell_id="a", text="!", if_version=changed.version)
    for wrong in ({"index": 7}, {"index": -1}, {"delete_count": 1}, {"index": 0, "delete_count": 7}):
        with pytest.raises(grpc.aio.AioRpcError, match="'a' has 6"):
            await notebook.call("SpliceSource", cell_id="a", **wrong)
    assert (await notebook.cell("a")).source == "axyzb!"


async def test_many_appends_at_once_lose_nothing(notebook: Notebook) -> None:
    await notebook.call("CreateCell", cell_id="a")
    words = [f"<{n}>" for n in range(50)]
    await asyncio.gather(*(notebook.call("SpliceSource", cell_id="a", text=word) for word in words))
    source = (await notebook.cell("a")).source
    assert sorted(source.replace(">", "> ").split()) == sorted(words)


async def test_metadata_of_a_cell_is_set_key_by_key(notebook: Notebook) -> None:
    await notebook.call("CreateCell", cell_id="a", metadata_json='{"old": 1, "": [null]}')
    await notebook.call(
        "SetCellMetadata", cell_id="a", metadata_json='{"tags": ["x"], "old": {}}', remove_keys=["gone"]
    )
    assert json.loads((await notebook.cell("a")).metadata_json) == {"": [None], "old": {}, "tags": ["x"]}
    await notebook.call("SetCellMetadata", cell_id="a", remove_keys=["", "old", "tags"])
    assert (await notebook.cell("a")).metadata_json == ""
    deep = '{"a":' + "[" * 2000 + "]" * 2000 + "}"
    for wrong, says in (
        (deep, "nested more"),
        ("[]", "no JSON object"),
        ("{", "no JSON"),
        ('{"\\ud800": 1}', "surrog"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=says):
            await notebook.call("SetCellMetadata", cell_id="a", metadata_json=wrong)


async def test_only_code_cells_show_outputs(notebook: Notebook) -> None:
    await notebook.create("a")
    await notebook.run("a")
    await notebook.call("SetCellType", cell_id="a", cell_type="markdown")
    cell = await notebook.cell("a")
    assert (cell.cell_type, cell.execution_count, list(cell.outputs)) == ("markdown", 0, [])
    with pytest.raises(grpc.aio.AioRpcError, match="non-code cell"):
        await notebook.run("a")
    await notebook.call("SetCellType", cell_id="a", cell_type="code")
    assert (await notebook.cell("a")).outputs[0].stream.text == "a\n"
    with pytest.raises(grpc.aio.AioRpcError, match="unsupported cell type 'video'"):
        await notebook.call("SetCellType", cell_id="a", cell_type="video")


async def test_cleared_outputs_stay_away_until_the_cell_runs_again(yard: Yard) -> None:
    notebook = Notebook(await yard.start())
    await notebook.create("a", "b")
    first, _ = await notebook.run("a"), await notebook.run("b")
    await notebook.call("ClearOutputs", cell_id="a")
    await yard.stop()
    notebook = Notebook(await yard.start())
    a, b = (await notebook.call("ListCells")).cells
    assert (a.execution_count, list(a.outputs), a.execution_id) == (0, [], "")
    assert b.outputs[0].stream.text == "b\n"
    kept = ex.GetExecution(notebook_id="nb", execution_id=first.execution_id)
    assert (await notebook.stubs.executions.Get(kept)).outputs == first.outputs
    await notebook.run("a")
    assert (await notebook.cell("a")).outputs[0].stream.text == "a\n"
    await notebook.call("ClearOutputs")
    assert [list(cell.outputs) for cell in (await notebook.call("ListCells")).cells] == [[], []]
    assert all(cell["outputs"] == [] for cell in json.loads(await notebook.export())["cells"])
    with pytest.raises(grpc.aio.AioRpcError, match="cell 'nope' not found"):
        await notebook.call("ClearOutputs", cell_id="nope")


async def test_a_new_cell_shows_nothing_of_one_that_had_its_id(notebook: Notebook) -> None:
    await notebook.create("a")
    await notebook.run("a")
    await notebook.call("DeleteCell", cell_id="a")
    await notebook.create("a")
    assert list((await notebook.cell("a")).outputs) == []
    await notebook.call("DeleteCell", cell_id="a")
    await notebook.import_(file(code("a", "x")))
    assert list((await notebook.cell("a")).outputs) == []


async def test_a_repeated_request_changes_nothing_again(notebook: Notebook) -> None:
    await notebook.create("a", "b")
    await notebook.run("a")
    once = {"request_id": "once"}
    for name, fields in (
        ("SpliceSource", {"cell_id": "a", "text": "x"}),
        ("SpliceSource", {"cell_id": "a", "index": 7, "delete_count": 1}),
        ("MoveCell", {"cell_id": "a", "after_cell_id": "b"}),
        ("SetCellMetadata", {"cell_id": "a", "metadata_json": '{"k": 1}'}),
        ("SetCellType", {"cell_id": "b", "cell_type": "raw"}),
        ("ClearOutputs", {"cell_id": "a"}),
    ):
        first = await notebook.call(name, **fields, **once)
        before = await notebook.call("ListCells")
        assert await notebook.call(name, **fields, **once) == first
        assert await notebook.call("ListCells") == before
        with pytest.raises(grpc.aio.AioRpcError, match="other content"):
            await notebook.call("DeleteCell", cell_id="a", **once)
        once["request_id"] += "+"


async def test_a_run_is_exported_as_jupyter_would_save_it(notebook: Notebook) -> None:
    await notebook.call(
        "SetMetadata", key="notebook_metadata", value='{"kernelspec": {"name": "p", "display_name": "P"}}'
    )
    await notebook.call("SetMetadata", key="mine", value="not nbformat's")
    await notebook.call("CreateCell", cell_id="all", source="print one\nstderr two\ndisplay d 1\nvalue 2")
    await notebook.call(
        "CreateCell", cell_id="has blanks", source="error ValueError boom", metadata_json='{"tags": []}'
    )
    await notebook.call("CreateCell", cell_id="m", cell_type="markdown", source="# ä")
    await notebook.run("all")
    await notebook.run("has blanks")
    text = await notebook.export()
    exported = json.loads(text)
    normal(text)
    assert (exported["nbformat"], exported["nbformat_minor"]) == (4, 5)
    assert exported["metadata"] == {"kernelspec": {"name": "p", "display_name": "P"}}
    everything, failed, prose = exported["cells"]
    assert everything["outputs"] == [
        stdout("one\n"),
        {"output_type": "stream", "name": "stderr", "text": "two\n"},
        {"output_type": "display_data", "data": {"text/plain": "1"}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1},
    ]
    assert (everything["id"], everything["execution_count"]) == ("all", 1)
    assert (failed["outputs"][0]["ename"], failed["execution_count"]) == ("ValueError", 2)
    assert failed["metadata"] == {"tags": []}
    assert prose == {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "# ä"}


async def test_an_import_shows_everywhere_and_outlives_the_controller(yard: Yard) -> None:
    notebook = Notebook(await yard.start())
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["t"]}
    markdown = {
        "cell_type": "markdown",
        "id": "m",
        "metadata": {"k": [1.0]},
        "source": ["a\n", "b"],
        "attachments": {"a.png": {"image/png": "AA=="}},
    }
    original = file(
        # Neighbours of one stream and control characters are kept as they are.
        code("a", "x = 1", stdout("1\r2\n"), stdout("3"), count=7),
        markdown,
        code("b", "boom", error, count=0),
        code("c", "never ran"),
        code("d", "no count", stdout("x")),
        minor=5,
        authors=[{"name": "ä"}],
    )
    assert (await notebook.import_(original)).cell_count == 5
    for _ in range(2):
        a, _, b, c, d = (await notebook.call("ListCells")).cells
        assert (a.source, a.execution_count) == ("x = 1", 7)
        assert [output.stream.text for output in a.outputs] == ["1\r2\n", "3"]
        assert await notebook.cell("a") == a
        assert (c.execution_id, d.execution_count, d.outputs[0].stream.text) == ("", 0, "x")
        executions = notebook.stubs.executions
        ends = {}
        for cell in (a, b, d):
            get = ex.GetExecution(notebook_id="nb", execution_id=cell.execution_id)
            ended = await executions.Get(get)
            ends[cell.cell_id] = (ended.end, ended.end_reason, ended.execution_count)
            stream = executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=cell.execution_id))
            events = [event async for event in stream]
            assert events[-1].finished.end == ended.end
            assert [event.output for event in events if event.WhichOneof("event") == "output"] == list(ended.outputs)
        assert ends == {
            "a": (ex.EXECUTION_END_SUCCEEDED, "imported", 7),
            "b": (ex.EXECUTION_END_FAILED, "imported", 0),
            "d": (ex.EXECUTION_END_SUCCEEDED, "imported", 0),
        }
        assert normal(await notebook.export()) == normal(json.dumps(original))
        metadata = await notebook.call("GetMetadata", key="notebook_metadata")
        assert json.loads(metadata.value) == {"authors": [{"name": "ä"}]}
        await yard.stop()
        notebook = Notebook(await yard.start())
    await notebook.call("SetSource", cell_id="a", source="print hello")
    await notebook.run("a")
    again = json.loads(await notebook.export())["cells"][0]
    assert (again["outputs"], again["execution_count"]) == ([stdout("hello\n")], 1)


async def test_a_notebook_of_nbformat_4_0_stays_one(notebook: Notebook) -> None:
    cell = {"cell_type": "raw", "metadata": {}, "source": "x"}
    await notebook.import_(file(cell, minor=0))
    await notebook.create("a")
    exported = json.loads(await notebook.export())
    assert exported["nbformat_minor"] == 0
    assert [cell.get("id") for cell in exported["cells"]] == [None, None]
    normal(json.dumps(exported))


async def test_an_import_is_for_a_notebook_without_cells_and_happens_once(notebook: Notebook) -> None:
    original = file(code("a", "x", stdout("1"), count=1))
    first = await notebook.import_(original, request_id="once")
    assert await notebook.import_(original, request_id="once") == first
    with pytest.raises(grpc.aio.AioRpcError, match="has 1 cells already"):
        await notebook.import_(original)
    with pytest.raises(grpc.aio.AioRpcError, match="other content"):
        await notebook.import_(file(), request_id="once")
    listed = await notebook.stubs.executions.List(ex.ListExecutions(notebook_id="nb"))
    assert len(listed.executions) == 1
    assert normal(await notebook.export()) == normal(json.dumps(original))


async def test_a_refused_import_makes_no_notebook(yard: Yard) -> None:
    stubs = await yard.start(limits={"notebook": 1000})
    notebook = Notebook(stubs, "never")
    for content, says in ((b"{", "no JSON"), (b"\xff", "no JSON"), (b"x" * 1001, "has 1001 bytes; at most 1000")):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as refused:
            await notebook.import_(content)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not (await stubs.notebooks.List(nb.ListNotebooks())).notebooks
    with pytest.raises(grpc.aio.AioRpcError, match="notebook 'never' not found"):
        await notebook.export()


async def test_metadata_that_no_file_could_have_is_refused(notebook: Notebook) -> None:
    for value in ("[]", "{", "text"):
        with pytest.raises(grpc.aio.AioRpcError, match="no JSON"):
            await notebook.call("SetMetadata", key="notebook_metadata", value=value)
    await notebook.call("SetMetadata", key="notebook_metadata", value="")
    assert json.loads(await notebook.export())["metadata"] == {}


async def test_a_large_export_comes_in_parts(notebook: Notebook) -> None:
    big = "x" * 5_000_000
    await notebook.import_(file(*(code(f"c{n}", "", stdout(big)) for n in range(5))))
    chunks = notebook.stubs.notebooks.Export(nb.ExportRequest(notebook_id="nb"))
    sizes = [len(chunk.content) async for chunk in chunks]
    assert sum(sizes) > 25_000_000
    assert max(sizes) <= 1024 * 1024


async def test_a_large_import_does_not_hold_up_other_notebooks(notebook: Notebook) -> None:
    other = Notebook(notebook.stubs, "other")
    await other.create("a")
    numbers = {"output_type": "display_data", "data": {"application/json": [1.5] * 50_000}, "metadata": {}}
    cells = [code(f"c{n}", "x" * 10_000, numbers) for n in range(40)]
    started = time.monotonic()
    importing = asyncio.ensure_future(notebook.import_(file(*cells)))
    waits = []
    while not importing.done():
        asked = time.monotonic()
        await other.cell("a")
        waits.append(time.monotonic() - asked)
    await importing
    assert len(waits) > 5
    assert max(waits) < (time.monotonic() - started) / 2


async def test_a_large_source_is_light(notebook: Notebook) -> None:
    await notebook.import_(file(code("c", "x" * 3_000_000)))
    started = time.monotonic()
    await notebook.call("SpliceSource", cell_id="c", text="yz")
    assert (await notebook.cell("c")).source[-4:] == "xxyz"
    assert time.monotonic() - started < 5  # as Text it takes half a minute


async def test_a_notebook_that_nobody_uses_is_not_kept_in_memory(yard: Yard) -> None:
    stubs = await yard.start()
    rooms = yard.controller.rooms
    for number in range(3):
        name = f"nb-{number}"
        await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id=name, cell_id="c", source="1"))
        assert rooms.unused_since is not None, "no room is left"
        await stubs.notebooks.GetCell(nb.GetCellRequest(notebook_id=name, cell_id="c"))
        assert rooms.unused_since is not None
    assert not rooms._opening
