"""Backups of a controller that works meanwhile, and what a restored one knows and does."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cellyard
from cellyard_controller import upkeep
from cellyard_controller.backups import contents
from cellyard_controller.backups.contents import BackupFailed, BackupRefused
from cellyard_controller.backups.restoring import restore
from cellyard_controller.backups.taking import take
from cellyard_controller.cli import commands
from cellyard_controller.clock import steady
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard

LARGE = 100_000


def large(number: int) -> str:
    return f"value {number} " + "x" * LARGE


async def taken(yard: Yard, name: str = "backup", progress: Any = lambda *_: None) -> Path:
    """A backup, made while the controller goes on."""
    destination = yard.folder / name
    await asyncio.to_thread(take, yard.folder / "data", destination, progress)
    return destination


@asynccontextmanager
async def restored(yard: Yard, backup: Path) -> AsyncIterator[tuple[Yard, Stubs]]:
    """A second controller on what was restored; the first one may go on beside it."""
    folder = yard.folder / "r"
    folder.mkdir()
    await asyncio.to_thread(restore, backup, folder / "data")
    other = Yard(folder)
    try:
        yield other, await other.start()
    finally:
        await other.close()


async def all_executions(stubs: Stubs, notebook: str) -> dict[str, ex.Execution]:
    found = (await stubs.executions.List(ex.ListExecutions(notebook_id=notebook, limit=1000))).executions
    return {each.execution_id: each for each in found}


async def test_what_was_accepted_before_a_backup_under_load_is_there_after_the_restore(yard: Yard) -> None:
    stubs = await yard.start()
    accepted: dict[str, str] = {}
    """Notebooks by the executions in them that had ended."""
    enough = asyncio.Event()

    async def load(notebook: str) -> None:
        number = 0
        while True:
            done = await stubs.run(notebook, large(number) if number % 3 == 0 else f"print {number}\nvalue {number}")
            accepted[done.execution_id] = notebook
            number += 1
            if len(accepted) >= 20:
                enough.set()

    loads = [asyncio.ensure_future(load(f"nb{number}")) for number in range(3)]
    await asyncio.wait_for(enough.wait(), 60)
    before, seen = dict(accepted), []
    while not seen or len(accepted) < len(before) + 10:  # load goes on while backups are made
        shutil.rmtree(yard.folder / "backup", ignore_errors=True)
        before = dict(accepted)
        backup = await taken(yard, progress=lambda what, done, of: seen.append((what, done, of)))
    for each in loads:
        each.cancel()
    await asyncio.gather(*loads, return_exceptions=True)
    assert {what for what, _, _ in seen} == {"database", "files"}

    async with restored(yard, backup) as (_, other):
        for notebook in set(before.values()):
            there = await all_executions(other, notebook)
            mine = {execution_id for execution_id, name in before.items() if name == notebook}
            assert mine <= there.keys()
            for execution_id in mine:
                was = await stubs.executions.Get(ex.GetExecution(notebook_id=notebook, execution_id=execution_id))
                now = await other.executions.Get(ex.GetExecution(notebook_id=notebook, execution_id=execution_id))
                assert now == was
        done = await other.run("nb0", "value 7")
        assert (done.end, done.value.json) == (ex.EXECUTION_END_SUCCEEDED, "7")
        async with cellyard.AsyncSession(notebook_id="nb1", endpoint=f"unix:{yard.folder}/r/c.sock") as session:
            await session.connect()
            assert any(len(cell.source) > LARGE for cell in await session.get_cells())
    again = await stubs.run("nb0", "value 8")  # the first controller has lost nothing to the second
    assert again.end == ex.EXECUTION_END_SUCCEEDED


async def test_what_had_not_ended_ends_lost_or_cancelled_and_never_runs_a_second_time(yard: Yard) -> None:
    yard.config["capacity"] = {"sandboxes": 1}
    stubs = await yard.start()
    assert (await stubs.run("busy", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    running = stubs.start("busy", "gate open")
    async for event in running:
        if event.WhichOneof("event") == "started":
            break
    behind = await stubs.executions.Enqueue(
        ex.Start(notebook_id="busy", source=ex.NewCell(cell_id="behind", source="value 2"))
    )
    waits = await stubs.executions.Enqueue(
        ex.Start(notebook_id="waits", source=ex.NewCell(cell_id="waits", source="value 3"))
    )
    backup = await taken(yard)
    async with restored(yard, backup) as (other_yard, other):
        ends = {each.cell_id: each for each in (await all_executions(other, "busy")).values()}
        (lost,) = [each for each in ends.values() if each.end == ex.EXECUTION_END_LOST]
        cancelled = ends["behind"]
        assert (cancelled.execution_id, cancelled.end) == (behind.execution_id, ex.EXECUTION_END_CANCELLED)
        assert {lost.end_reason, cancelled.end_reason} == {"node_lost"}
        never = await other.executions.Get(ex.GetExecution(notebook_id="waits", execution_id=waits.execution_id))
        assert (never.end, never.end_reason) == (ex.EXECUTION_END_CANCELLED, "node_lost")
        attached = other.executions.Attach(ex.AttachExecution(notebook_id="busy", execution_id=lost.execution_id))
        *_, last = [event async for event in attached]
        assert "restored from a backup" in last.finished.end_message
        assert (await other.run("waits", "value 4")).value.json == "4"
        await other_yard.stop()
        other = await other_yard.start()  # what is lost is so once: nothing is left to see to
        kept = await other.run("waits", "value 5")
        assert kept.value.json == "5"


async def test_no_file_that_a_backup_names_is_removed_while_it_is_made(yard: Yard) -> None:
    stubs = await yard.start()
    done = await stubs.run("nb", large(1))
    assert list((yard.folder / "data" / "blobs").glob("*/*"))
    removed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def meanwhile() -> None:
        """The notebook is deleted, and its files are nobody's, right after the database was copied."""
        await stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb"))
        await upkeep.once(yard.controller._store, steady())
        removed.set()

    def progress(what: str, done: int, of: int) -> None:
        if what == "database" and done == of and not removed.is_set():
            asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(60)

    backup = await taken(yard, progress=progress)
    assert removed.is_set()
    assert contents.Manifest.read(backup).missing == ()
    await upkeep.once(yard.controller._store, steady())
    assert not list((yard.folder / "data" / "blobs").glob("*/*"))  # afterwards they go as ever
    async with restored(yard, backup) as (_, other):
        assert done.execution_id in await all_executions(other, "nb")


async def test_tokens_artifacts_and_settings_with_secrets_go_along_and_nobody_else_may_read_them(yard: Yard) -> None:
    stubs = await yard.start()
    token = (await stubs.tenants.Create(te.CreateTenant(name="alice"))).token
    async with cellyard.AsyncSession(
        notebook_id="secret", endpoint=f"unix:{yard.folder}/c.sock", env={"KEY": "s3cr3t-value"}
    ) as session:
        assert (await session.run("value 1")).success
        backup = await taken(yard)
    async with restored(yard, backup) as (_, other):
        listed = (await other.tenants.List(te.ListTenants())).tenants
        assert [(each.name, each.tokens) for each in listed] == [("alice", 1)]
        async with cellyard.AsyncClient(endpoint=f"unix:{yard.folder}/r/c.sock", token=token) as client:
            assert await client.list_notebooks() == []
        assert (await other.run("secret", "value 2")).value.json == "2"
    for folder in (backup, yard.folder / "r" / "data"):
        for path in folder.rglob("*"):
            if path.is_file():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
                assert b"s3cr3t-value" not in path.read_bytes()
            elif path.is_dir() and folder == backup:
                assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.fixture
async def backup(yard: Yard) -> Path:
    """A backup with a large output."""
    stubs = await yard.start()
    await stubs.run("nb", large(1))
    found = await taken(yard)
    await yard.stop()
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_blob(backup: Path) -> Path:
    return next((backup / "blobs").glob("*/*"))


def edit(backup: Path, **values: Any) -> None:
    path = backup / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "database cut": (lambda b: cut(b / "cellyard.sqlite"), "cellyard.sqlite is cut"),
    "database changed": (lambda b: flip(b / "cellyard.sqlite"), "cellyard.sqlite is not what was written"),
    "database gone": (lambda b: (b / "cellyard.sqlite").unlink(), "cellyard.sqlite is missing"),
    "key gone": (lambda b: (b / "seal.key").unlink(), "seal.key is missing"),
    "output changed": (lambda b: flip(a_blob(b)), "is not what was written"),
    "output cut": (lambda b: cut(a_blob(b)), "is not what was written"),
    "output gone": (lambda b: a_blob(b).unlink(), "is missing"),
    "manifest cut": (lambda b: cut(b / "manifest.json"), "manifest.json cannot be read"),
    "manifest gone": (lambda b: (b / "manifest.json").unlink(), "it has no manifest.json"),
    "manifest of nothing": (lambda b: (b / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
    "manifest that climbs": (
        lambda b: edit(b, files={"damaged/../../x": {"size": 1, "sha256": ""}}),
        "names what no backup has",
    ),
    "later format": (lambda b: edit(b, format=2), "has the format 2, and this release knows 1"),
    "later schema": (lambda b: edit(b, schema=99, version="9.0"), "made by a later release (schema 99"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_backup_is_refused_with_a_sentence_and_leaves_nothing(backup: Path, harm: str) -> None:
    do, says = HARM[harm]
    do(backup)
    target = backup.parent / "fresh"
    with pytest.raises(BackupRefused, match=r"\w") as refused:
        restore(backup, target)
    assert says in str(refused.value)
    assert not target.exists()


async def test_commands_say_what_they_did_and_refuse_what_cannot_be(yard: Yard, backup: Path) -> None:
    runner = CliRunner()
    await yard.start()

    async def run(*words: Any) -> tuple[int, str]:
        found = await asyncio.to_thread(runner.invoke, commands, [str(word) for word in words])
        return found.exit_code, found.output

    data, empty = yard.folder / "data", yard.folder / "empty"
    empty.mkdir()
    for words, says in (
        (("restore", backup, "--data", data), "in use by another controller"),
        (("restore", backup, "--data", backup), "is not empty"),
        (("restore", empty, "--data", yard.folder / "new"), "it has no manifest.json"),
        (("backup", backup, "--data", data), "is not empty"),
        (("backup", data / "inside", "--data", data), "in the data folder itself"),
        (("backup", yard.folder / "b", "--data", empty), "there is no cellyard.sqlite"),
    ):
        code, said = await run(*words)
        assert (code, says in said) == (2, True), said
    assert not (yard.folder / "b").exists()
    code, said = await run("backup", yard.folder / "b", "--data", data, "--json")
    assert code == 0
    assert json.loads(said)["blobs"] == 1
    code, said = await run("restore", yard.folder / "b", "--data", empty, "--json")
    assert code == 0
    assert json.loads(said)["missing"] == 0
    assert not (empty / "controller.pid").exists()


async def test_a_damaged_data_folder_is_backed_up_as_far_as_it_goes(yard: Yard, backup: Path) -> None:
    damaged = yard.folder / "data"
    flip(a_blob(damaged))
    made = take(damaged, yard.folder / "second")
    assert len(made.missing) == 1
    async with restored(yard, yard.folder / "second") as (_, other):
        assert (await other.run("nb", "value 2")).value.json == "2"


def test_a_disk_that_is_full_leaves_no_half_a_backup(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> contents.FileFacts:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contents, "copy", full)
    with pytest.raises(BackupFailed, match="No space left"):
        take(backup.parent / "data", backup.parent / "b")
    assert not (backup.parent / "b").exists()
    with pytest.raises(BackupFailed, match="No space left"):
        restore(backup, backup.parent / "b")
    assert not (backup.parent / "b").exists()


def test_an_older_schema_is_restored_and_brought_up_to_date_at_its_start(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "data" / "v1", tmp_path / "old")
    made = take(tmp_path / "old", tmp_path / "backup")
    assert made.schema == 1
    restore(tmp_path / "backup", tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "new" / "cellyard.sqlite")) as raw:
        assert raw.execute("SELECT count(*) FROM executions").fetchone()[0] > 0
