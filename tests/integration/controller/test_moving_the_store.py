"""`cellyard store migrate`: a controller's store goes into PostgreSQL and back, and nothing of it is another one."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from google.protobuf.message import Message
from sqlalchemy import select
from tests.stores import Ground, kept_digests
from typer.testing import CliRunner

from cellyard.cli.app import app
from cellyard_controller.cli import commands
from cellyard_controller.executions.records import notebooks_with_unfinished
from cellyard_controller.store import Store, StoreFailed, moving, schema
from cellyard_controller.store.places import SqliteFile
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import WITHIN, Outliving, Stubs, Yard, until
from .test_adoption import begin, ended, enqueue

LARGE = 'value "' + "x" * 200_000 + '"'
SOURCES = ("value 1", "print a\0b\x1ac", "value é\U0001f40d", LARGE, "error no", "display d <b>x</b>")


def migrated(source: object, target: object) -> Result:
    return CliRunner().invoke(commands, ["store", "migrate", "--from", str(source), "--to", str(target)])


async def moved(source: object, target: object) -> None:
    result = await asyncio.to_thread(migrated, source, target)
    assert result.exit_code == 0, result.output


async def all_that_is_told(stubs: Stubs) -> list[Message]:
    found = (await stubs.executions.List(ex.ListExecutions(notebook_id="nb", limit=100))).executions
    told: list[Message] = [
        await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=each.execution_id)) for each in found
    ]
    tenants = await stubs.tenants.List(te.ListTenants())
    return [*told, tenants]


async def test_a_store_goes_into_postgresql_and_back_and_controllers_go_on_with_it(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder / "data"
    yard = Yard(folder)
    stubs = await yard.start()
    await stubs.tenants.Create(te.CreateTenant(name="alice"))
    for source in SOURCES:
        await stubs.run("nb", source)
    before = await all_that_is_told(stubs)
    await yard.stop()

    await moved(data, database)
    monkeypatch.setenv("CELLYARD_STORE__URL", database)  # from here on as an operator configures it
    stubs = await yard.start()
    assert await all_that_is_told(stubs) == before
    assert (await stubs.run("nb", "value 2")).value.json == "2"
    assert (await stubs.run("new", "value 3")).value.json == "3"
    refused = await asyncio.to_thread(migrated, database, folder / "back")
    assert refused.exit_code == 1
    assert "controllers have" in refused.output
    after = await all_that_is_told(stubs)
    await yard.stop()

    await moved(database, folder / "back")
    (folder / "back" / "seal.key").write_bytes((data / "seal.key").read_bytes())
    monkeypatch.delenv("CELLYARD_STORE__URL")
    back = Yard(folder)
    stubs = await back.start(data=folder / "back")
    assert await all_that_is_told(stubs) == after
    assert (await stubs.run("nb", "value 4")).value.json == "4"
    await back.close()


async def test_what_was_unfinished_ends_where_the_store_goes_and_leaves_no_sandbox_behind(
    yard: Yard, runtime: Outliving, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = await yard.start(on_stop="keep")
    running = await begin(stubs, "gate never")
    await runtime.reached("never")
    waiting = await enqueue(stubs, "w", "value 2")
    await yard.stop()
    assert await runtime.instances(await known_as(yard))

    await moved(yard.folder / "data", database)
    monkeypatch.setenv("CELLYARD_STORE__URL", database)
    stubs = await yard.start(on_stop="keep")
    async with asyncio.timeout(WITHIN):
        while await yard.controller._store.read(notebooks_with_unfinished):  # noqa: ASYNC110 - nobody asked for it
            await asyncio.sleep(0.01)
    ends = [(await ended(stubs, each)).end for each in (running, waiting)]
    assert ends == [ex.EXECUTION_END_LOST, ex.EXECUTION_END_CANCELLED]
    assert not (await stubs.sandboxes.List(sb.ListSandboxes())).sandboxes
    assert await known_as(yard) == yard.controller._store.controller_id
    await until(lambda: not runtime.list_of_ids())
    assert (await stubs.run("nb", "value 3")).value.json == "3"


async def known_as(yard: Yard) -> str:
    """What the folder's containers are labelled with, as its first database says."""
    with closing(sqlite3.connect(yard.folder / "data" / "cellyard.sqlite")) as opened:
        (said,) = opened.execute("SELECT value FROM meta WHERE key = 'controller_id'").fetchone()
    return str(said)


async def test_what_cannot_be_copied_whole_is_not_copied_at_all(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLYARD_STORE__BLOBS_FOLDER", str(folder / "shared"))
    yard = Yard(folder)
    stubs = await yard.start(store={"blobs_folder": folder / "data" / "blobs"})
    await stubs.run("nb", LARGE)
    running = await asyncio.to_thread(migrated, folder / "data", database)
    assert "in use by another controller" in running.output
    await yard.stop()
    source = SqliteFile(folder / "data" / "cellyard.sqlite", folder / "data" / "blobs")

    def fail(what: str, _count: int) -> None:
        if what == "files":
            raise OSError("no room")

    for target in (SqliteFile(folder / "to" / "cellyard.sqlite", folder / "to" / "blobs"),):
        with pytest.raises(StoreFailed, match="no room"):
            moving.move(source, target, fail)
        assert not list((folder / "to").glob("cellyard*"))
        assert not list((folder / "to" / "blobs").glob("*/*"))
    await moved(folder / "data", database)
    assert len(list((folder / "shared").glob("*/*"))) == 1
    again = await asyncio.to_thread(migrated, folder / "data", database)
    assert again.exit_code == 1
    assert "is not empty" in again.output
    there = await asyncio.to_thread(migrated, database, folder / "data")
    assert "already" in there.output


def test_places_that_are_none_are_refused(folder: Path) -> None:
    result = CliRunner().invoke(app, ["store", "migrate", "--from", str(folder / "none"), "--to", str(folder / "to")])
    assert result.exit_code == 1
    assert "name a controller's data folder" in result.output
    assert not (folder / "to" / "cellyard.sqlite").exists()
    assert migrated(folder / "none", "redis://127.0.0.1/0").exit_code == 2
    nowhere = migrated(folder / "none", "postgresql://u:secret@127.0.0.1:9/d")
    assert nowhere.exit_code == 1
    assert "secret" not in nowhere.output


@pytest.mark.parametrize("ground", ["rows"], indirect=True)
async def test_large_parts_go_into_rows_and_out_of_them(folder: Path, ground: Ground) -> None:
    yard = Yard(folder)
    stubs = await yard.start()
    await stubs.run("nb", LARGE)
    await yard.stop()
    source = SqliteFile(folder / "data" / "cellyard.sqlite", folder / "data" / "blobs")
    back = SqliteFile(folder / "back" / "cellyard.sqlite", folder / "back" / "blobs")
    first = await asyncio.to_thread(moving.move, source, ground.place)
    second = await asyncio.to_thread(moving.move, ground.place, back)
    assert first == second
    assert (first.blobs, first.missing) == (1, 0)
    one, other = Store.open(source), Store.open(back)
    assert kept_digests(one) == kept_digests(other) != set()
    digest = await other.read(lambda c: c.execute(select(schema.blob_uses.c.digest)).scalar_one())
    assert one.blobs.text(digest) == other.blobs.text(digest)
    one.close()
    other.close()


def test_a_backup_of_what_is_in_postgresql_says_what_makes_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLYARD_STORE__URL", "postgresql://u:secret@127.0.0.1:9/d")
    for words in (["backup", str(folder / "to")], ["restore", str(folder / "from")]):
        result = CliRunner().invoke(commands, [*words, "--data", str(folder / "data")])
        assert result.exit_code == 2
        assert "pg_dump" in result.output
        assert "secret" not in result.output
    assert not list(folder.iterdir())


async def test_operators_commands_reach_a_store_in_postgresql_without_a_controller(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLYARD_STORE__URL", database)
    for words in (["create", "alice"], ["list"], ["usage"]):
        result = await asyncio.to_thread(
            CliRunner().invoke, commands, ["tenants", *words, "--data", str(folder / "data")]
        )
        assert result.exit_code == 0, result.output
    yard = Yard(folder)
    stubs = await yard.start()
    assert [each.name for each in (await stubs.tenants.List(te.ListTenants())).tenants] == ["alice"]
    await yard.close()
    assert not (folder / "data" / "cellyard.sqlite").exists()
