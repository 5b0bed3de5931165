"""A notebook that is deleted leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellyard_controller import upkeep
from cellyard_controller.store.schema import metadata
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Yard
from .test_access import reason

MARK = "only-in-this-notebook"
FILLED = ("notebooks", "document_chunks", "executions", "event_batches", "displays", "widgets", "blob_uses")
KEPT = ("requests", "sandboxes", "usage")
"""That requests were made (hashes and ids, for a day), and that there was a sandbox."""


def rows(data: Path) -> dict[str, int]:
    """How many rows each table has, but for those of which some are kept."""
    with sqlite3.connect(data / "cellyard.sqlite") as connection:
        names = [table.name for table in metadata.sorted_tables if table.name not in KEPT]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


def holding(data: Path, text: str) -> list[str]:
    """The files that hold a text."""
    return [path.name for path in data.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_nothing_of_a_deleted_notebook_is_left(yard: Yard) -> None:
    stubs = await yard.start()
    data = yard.folder / "data"
    before = rows(data)
    await stubs.run("nb", f"print {MARK}\ndisplay one {MARK}\nvalue {json.dumps(MARK)}")
    await stubs.run("nb", f"html {'x' * 100_000}{MARK}")
    await stubs.run("nb", f'comm one {{"state": {{"_model_name": "{MARK}"}}}}')
    await stubs.notebooks.SetMetadata(nb.SetMetadataRequest(notebook_id="nb", request_id="r", key="k", value=MARK))
    there = rows(data)
    assert [name for name in FILLED if there[name] == before[name]] == []
    assert holding(data / "blobs", MARK)
    await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb", request_id="delete"))
    await upkeep.once(yard.controller._store, time.time())
    assert rows(data) == before
    assert list((data / "blobs").glob("*/*")) == []
    await yard.stop()
    with sqlite3.connect(data / "cellyard.sqlite") as connection:
        connection.execute("VACUUM")  # what was deleted may stay in pages that are not used yet
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert holding(data, MARK) == []


async def test_a_notebook_that_is_deleted_while_others_come_is_there_or_is_not(yard: Yard) -> None:
    """Nobody finds it half gone, and who asks twice at once is told that it is gone."""
    stubs = await yard.start()

    def calls() -> list[Any]:
        create = nb.CreateCellRequest(notebook_id="nb", cell_id=f"cell-{uuid.uuid4()}", source="x")
        delete = nb.DeleteNotebook(notebook_id="nb")
        return [stubs.notebooks.CreateCell(create), stubs.notebooks.Delete(delete), stubs.notebooks.Delete(delete)]

    for _ in range(30):
        answers = await asyncio.gather(*calls(), *calls(), *calls(), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert {reason(each) for each in refused} <= {"NOTEBOOK_NOT_FOUND", "CONTROLLER_UNAVAILABLE"}
        assert len(refused) < len(answers)


async def to_the_end(stream: Any) -> None:
    """Reads a stream as far as it goes."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_deletion_that_nobody_waits_for_is_carried_out(yard: Yard) -> None:
    stubs = await yard.start()
    for _ in range(10):
        await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", source="x"))
        watched = stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"))
        await watched.read()
        delete = stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb"))
        rooms = yard.controller.rooms
        while rooms._seats:  # noqa: ASYNC110 - the very moment at which the room is on its way out
            await asyncio.sleep(0)
        delete.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await to_the_end(watched)
        assert reason(gone.value) == "NOTEBOOK_NOT_FOUND"
    assert not (await stubs.notebooks.List(nb.ListNotebooks())).notebooks
