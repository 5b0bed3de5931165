"""The SDK's live replica of a document against a whole controller, in both flavours."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.follower import Follower
from tests.integration.sdk.faultline import Faultline

import cellyard
from cellyard import AsyncSession, DocumentChange, Session
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard
from .test_documents import Notebook

FLAVOURS = ["async", "sync"]


class Replicas:
    """Sessions of either flavour, each with a replica, over connections that can be cut."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.lines: list[Faultline] = []
        self.sessions: list[Any] = []

    def session(self, flavour: str, notebook_id: str = "nb") -> Any:
        """A session over a connection of its own."""
        line = Faultline(self.yard.folder / f"line{len(self.lines)}", self.yard.folder / "c.sock")
        self.lines.append(line)
        made = (AsyncSession if flavour == "async" else Session)(notebook_id, endpoint=f"unix:{line.path}")
        self.sessions.append(made)
        return made

    async def open(self, flavour: str, notebook_id: str = "nb") -> Any:
        """A replica."""
        return await call(self.session(flavour, notebook_id).document)

    async def close(self) -> None:
        """Ends all."""
        for session in self.sessions:
            await call(session.close)
        for line in self.lines:
            await asyncio.to_thread(line.close)


async def call(method: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Calls a method of either flavour."""
    if asyncio.iscoroutinefunction(method):
        return await method(*arguments, **keywords)
    return await asyncio.to_thread(method, *arguments, **keywords)


async def until(document: Any, done: Callable[[], bool]) -> None:
    """Waits for a change after which something is so."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    forget = document.on_change(lambda change: loop.call_soon_threadsafe(changed.set))
    while not done():
        await changed.wait()
        changed.clear()
    forget()


@pytest.fixture
async def replicas(yard: Yard, stubs: Stubs) -> AsyncIterator[Replicas]:
    """A controller, and whoever replicates its documents."""
    found = Replicas(yard)
    yield found
    await found.close()


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_a_replica_reads_and_edits_everything(replicas: Replicas, stubs: Stubs, flavour: str) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a", "b")
    await notebook.call("SetMetadata", key="k", value="v")
    document = await replicas.open(flavour)
    assert [(cell.id, cell.cell_type, cell.source) for cell in document.cells] == [
        ("a", "code", "print a"),
        ("b", "code", "print b"),
    ]
    assert document.get_metadata("k") == "v"
    first = document.create_cell("# title", "markdown", 0)
    document.splice_source("a", 0, 5, "show")
    document.set_source("b", "b" * 30_000)
    document.splice_source("b", 30_000, 0, "!")
    document.set_cell_metadata("a", {"tags": ["x"], "": None, "gone": 1})
    document.set_cell_metadata("a", {}, remove=["gone", "never there"])
    document.set_cell_type("b", "raw")
    document.move_cell("b", first)
    document.set_metadata("k", "w")
    assert document.source("a") == "show a"
    assert document.cell("a").metadata == {"tags": ["x"], "": None}
    await call(document.wait_synced, 20)
    found = (await notebook.call("ListCells")).cells
    assert [(cell.cell_id, cell.cell_type, cell.source) for cell in found] == [
        (cell.id, cell.cell_type, cell.source) for cell in document.cells
    ]
    assert [cell.cell_id for cell in found] == [first, "b", "a"]
    assert (await notebook.call("GetMetadata", key="k")).value == "w"
    document.delete_cell("b")
    await call(document.close)
    assert len((await notebook.call("ListCells")).cells) == 2


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_changes_are_told(replicas: Replicas, stubs: Stubs, flavour: str) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a", "b")
    document = await replicas.open(flavour)
    changes: list[DocumentChange] = []
    document.on_change(changes.append)
    document.on_change(lambda change: None if change.local else 1 / 0)  # is logged, and costs nobody anything
    document.splice_source("a", 0, 0, "x")
    assert changes == [DocumentChange(cells=frozenset("a"), local=True)]
    await call(document.wait_synced, 20)
    await notebook.call("DeleteCell", cell_id="b")
    await until(document, lambda: len(document.cells) == 1)
    await notebook.call("SetMetadata", key="k", value="v")
    await until(document, lambda: document.get_metadata("k") == "v")
    assert changes[1:] == [DocumentChange(removed=frozenset("b")), DocumentChange(metadata=frozenset("k"))]


async def test_whoever_watches_sees_what_a_replica_writes(replicas: Replicas, stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a", "b")
    follower, events = Follower(), stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"))
    document = await replicas.open("async")
    new = document.create_cell("# title", "markdown", 0)
    document.splice_source("a", 0, 5, "show")
    document.delete_cell("b")
    document.set_metadata("k", "v")
    await document.wait_synced(20)
    async for event in events:
        follower.take(event)
        sources = [(cell_id, follower.cells[cell_id].told.source) for cell_id in follower.order]
        if sources == [(new, "# title"), ("a", "show a")] and follower.metadata.get("k") == "v":
            return
    raise AssertionError("the stream has ended")


async def test_replicas_see_each_other(replicas: Replicas) -> None:
    one, other = await replicas.open("async"), await replicas.open("sync")
    cell = one.create_cell("hello")
    await until(other, lambda: len(other.cells) == 1)
    other.splice_source(cell, 5, 0, " world")
    one.splice_source(cell, 0, 0, ">> ")
    for document in (one, other):
        await until(document, lambda document=document: document.source(cell) == ">> hello world")


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_edits_without_a_connection_merge_when_it_is_back(replicas: Replicas, stubs: Stubs, flavour: str) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a")
    document, other = await replicas.open(flavour), await replicas.open("sync")
    for round_ in range(3):
        await asyncio.to_thread(replicas.lines[0].cut, listen=False)
        document.splice_source("a", 0, 0, f"{round_}")
        added = document.create_cell(f"made in round {round_}")
        assert not document.is_synced
        with pytest.raises(cellyard.ControllerUnavailable):
            await call(document.wait_synced, 0.05)
        other.splice_source("a", len(other.source("a")), 0, "!")
        await call(other.wait_synced, 20)
        await asyncio.to_thread(replicas.lines[0].restore)
        await call(document.wait_synced, 20)
        await until(document, lambda round_=round_: document.source("a").count("!") == round_ + 1)
        assert (await notebook.cell(added)).source == f"made in round {round_}"
    assert document.source("a") == "210print a!!!" == (await notebook.cell("a")).source
    await until(other, lambda: other.source("a") == "210print a!!!")


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_a_restarted_controller_gets_what_it_missed(replicas: Replicas, yard: Yard, flavour: str) -> None:
    document = await replicas.open(flavour)
    cell = document.create_cell("before")
    await call(document.wait_synced, 20)
    await asyncio.to_thread(replicas.lines[0].cut, listen=False)
    await yard.stop()
    document.set_source(cell, "meanwhile")
    stubs = await yard.start()
    await asyncio.to_thread(replicas.lines[0].restore)
    await call(document.wait_synced, 20)
    assert (await Notebook(stubs).cell(cell)).source == "meanwhile"


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_what_the_controller_refuses_ends_the_replica(replicas: Replicas, stubs: Stubs, flavour: str) -> None:
    document = await replicas.open(flavour)
    cell = document.create_cell()
    document.set_source(cell, "x" * (4 * 1024 * 1024 + 1))
    with pytest.raises(cellyard.InvalidRequest, match="has more than 4194304 bytes"):
        await call(document.wait_synced, 20)
    with pytest.raises(cellyard.InvalidRequest, match="has more than"):
        document.create_cell()
    assert len(document.cells) == 1
    with pytest.raises(cellyard.InvalidRequest, match="has more than"):
        await call(document.close)
    assert len((await Notebook(stubs).call("ListCells")).cells) <= 1
    again = await call(replicas.sessions[0].document)
    again.create_cell("goes on")
    await call(again.close)


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_a_deleted_notebook_ends_its_replica(replicas: Replicas, stubs: Stubs, flavour: str) -> None:
    document = await replicas.open(flavour)
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb", request_id="delete"))

    async def go_on() -> None:
        while True:
            document.create_cell()
            await call(document.wait_synced, 20)

    with pytest.raises((cellyard.NotebookNotFound, cellyard.InvalidRequest)):
        await go_on()


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_closing_takes_edits_along_and_leaves_nothing(replicas: Replicas, stubs: Stubs, flavour: str) -> None:
    session = replicas.session(flavour)
    document = await call(session.document)
    cell = document.create_cell("last words")
    await call(session.close)
    assert (await Notebook(stubs).cell(cell)).source == "last words"
    assert not [thread for thread in threading.enumerate() if thread.name == "cellyard-document"]
    await call(document.close)
    with pytest.raises(cellyard.NotConnected, match="the document is closed"):
        document.create_cell()
    assert document.source(cell) == "last words"


async def test_wrong_arguments_are_told_at_once(replicas: Replicas) -> None:
    document = await replicas.open("sync")
    cell = document.create_cell("abc")
    for wrong in (
        lambda: document.create_cell(cell_type="sql"),
        lambda: document.create_cell("\ud800"),
        lambda: document.create_cell(index=-1),
        lambda: document.splice_source(cell, 2, 2, ""),
        lambda: document.splice_source(cell, -1, 0, ""),
        lambda: document.set_cell_metadata(cell, {"a": object()}),
        lambda: document.set_metadata("notebook_metadata", "[]"),
    ):
        with pytest.raises(cellyard.InvalidRequest):
            wrong()
    for missing in (
        lambda: document.source("no"),
        lambda: document.set_source("no", ""),
        lambda: document.delete_cell("no"),
        lambda: document.move_cell(cell, "no"),
        lambda: document.move_cell("no"),
    ):
        with pytest.raises(cellyard.CellNotFound, match="'no' not found"):
            missing()
    assert [found.source for found in document.cells] == ["abc"]
    await call(document.close)


def test_without_its_extra_a_replica_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['automerge'] = None\n"
        "import cellyard\n"
        "try: cellyard.Session().document()\n"
        "except cellyard.CapabilityUnavailable as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "pip install 'cellyard[document]'" in said
