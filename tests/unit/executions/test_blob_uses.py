"""Any mix of runs, ends, updates, clears, deletions, restarts and crashes: what is referred to is there, nothing else.

Real store, real journal, real files; what a sandbox reports is made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, select
from tests.postgres_server import PostgresServer
from tests.stores import KINDS, Ground, kept_digests

from cellyard_controller.config import LimitsConfig
from cellyard_controller.executions import blob_uses, parts, records, retention
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.live import LiveExecution
from cellyard_controller.executions.model import End, Execution, State
from cellyard_controller.executions.reports import Clear, Output, Started, Update
from cellyard_controller.ids import (
    LOCAL,
    CellId,
    NotebookId,
    NotebookKey,
    NotebookRef,
    SessionId,
    new_execution_id,
)
from cellyard_controller.notebooks import opening
from cellyard_controller.notebooks import records as notebook_records
from cellyard_controller.store import StoreFailed
from cellyard_controller.store import schema as tables
from cellyard_proto.outputs import BlobRef

SIZE = parts.LARGE
LETTER = st.sampled_from("abc.")


def content_of(letter: str) -> str:
    """A large content, or for a dot a small one."""
    return "small" if letter == "." else letter * SIZE


class Crash(Exception):
    """The controller dies between its files and its commit."""


class Yard:
    """A data folder with two notebooks, and the executions that are in memory."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.store = ground.open()
        self.keys: dict[str, NotebookKey] = {}
        self.journals: dict[str, Journal] = {}
        self.running: dict[str, list[LiveExecution]] = {}

    async def notebook(self, name: str) -> Journal:
        if name not in self.journals:
            ref = NotebookRef(LOCAL, NotebookId(name))
            found = await self.store.write(partial(opening.find_or_add, ref=ref, document=b""))
            key = self.keys[name] = found.record.key
            journal = self.journals[name] = Journal(key, LOCAL, self.store, LimitsConfig())
            await journal.recover(found.unfinished)
            self.running[name] = [journal.live(each.execution_id) for each in found.unfinished]
        return self.journals[name]

    async def start(self, name: str) -> LiveExecution:
        journal = await self.notebook(name)
        execution = Execution(new_execution_id(), CellId("c"), SessionId(""), "", State.QUEUED, 1.0, 1.0)
        await self.store.write(partial(records.add, notebook=self.keys[name], execution=execution))
        live = journal.add(execution)
        live.started(Started(1))
        self.running[name].append(live)
        return live

    async def commit(self, name: str, *more: Callable[[Connection], None]) -> None:
        rows, done = (await self.notebook(name)).unwritten()

        def work(connection: Connection) -> None:
            for row in [*rows, *more]:
                row(connection)

        await self.store.write(work)
        for act in done:
            act()

    def restart(self) -> None:
        self.store.close()
        self.store = self.ground.open()
        self.journals.clear()
        self.running.clear()

    def close(self) -> None:
        self.store.close()
        self.ground.close()

    def files(self) -> set[str]:
        return kept_digests(self.store)


def referred(connection: Connection) -> set[tuple[NotebookKey, str, str]]:
    """What stored outputs and events refer to: notebook, execution, digest."""
    found = set()
    for row in connection.execute(select(tables.executions.c.notebook_key, tables.executions.c.execution_id)):
        loaded = records.load(connection, row.notebook_key, row.execution_id)
        assert loaded is not None
        shown = [*loaded.outputs, *(e.body for e in records.events_after(connection, row.execution_id, 0, 1000))]
        found |= {(row.notebook_key, row.execution_id, digest) for digest in parts.used(shown)}
    return found


def noted(connection: Connection) -> set[tuple[NotebookKey, str, str]]:
    uses = tables.blob_uses.c
    return {tuple(row) for row in connection.execute(select(uses.notebook_key, uses.execution_id, uses.digest))}


def stream(text: str) -> Output:
    return Output({"output_type": "stream", "name": "stdout", "text": text})


def display(data: dict[str, Any]) -> Output:
    transient = {"display_id": "d"}
    return Output({"output_type": "display_data", "data": data, "metadata": {}, "transient": transient})


NAMES = st.sampled_from(["one", "two"])


class Machine(RuleBasedStateMachine):
    """Cells run in two notebooks; the disk is looked at after each step."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.yard = Yard(ground)

    def teardown(self) -> None:
        self.yard.close()
        self.runner.close()

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(name=NAMES, shown=st.lists(st.tuples(st.sampled_from("sdj"), LETTER), max_size=4), wait=st.booleans())
    def run_on(self, name: str, shown: list[tuple[str, str]], wait: bool) -> None:
        """A cell starts, or goes on, and shows things."""

        async def work() -> None:
            await self.yard.notebook(name)
            running = self.yard.running[name]
            live = running[-1] if running else await self.yard.start(name)
            for kind, letter in shown:
                content = content_of(letter)
                data = {"application/json": [content]} if kind == "j" else {"image/png": content, "text/plain": "p"}
                live.output(stream(content) if kind == "s" else display(data), len(content) + 50)
            if not wait:
                await self.yard.commit(name)

        self.do(work())

    @rule(name=NAMES, wait=st.booleans())
    def clear(self, name: str, wait: bool) -> None:
        for live in self.yard.running.get(name, [])[-1:]:
            live.output(Clear(wait), 10)

    @rule(name=NAMES, letter=LETTER)
    def update(self, name: str, letter: str) -> None:
        """A display is replaced, in every execution that shows it."""

        async def work() -> None:
            journal = await self.yard.notebook(name)
            content = content_of(letter)
            what = Update("d", {"text/html": content}, {})
            for shown in await self.yard.store.read(
                partial(records.displaying, notebook=self.yard.keys[name], display_id="d")
            ):
                (await journal.open(shown)).update_display(what, len(content) + 50)
            await self.yard.commit(name)

        self.do(work())

    @rule(name=NAMES)
    def end(self, name: str) -> None:
        async def work() -> None:
            await self.yard.notebook(name)
            for live in self.yard.running[name]:
                live.finish(End.SUCCEEDED, "", "")
            self.yard.running[name].clear()
            await self.yard.commit(name)

        self.do(work())

    @rule(name=NAMES, letter=LETTER, again=st.booleans())
    def crash(self, name: str, letter: str, again: bool) -> None:
        """The files are written, the commit does not happen; then a restart, or another try later."""

        async def work() -> None:
            await self.yard.notebook(name)
            live = self.yard.running[name][-1] if self.yard.running[name] else await self.yard.start(name)
            live.output(display({"text/html": f"{content_of(letter)}lost"}), SIZE + 100)

            def die(_: Connection) -> None:
                raise Crash

            with pytest.raises(Crash):
                await self.yard.commit(name, die)

        self.do(work())
        if not again:
            self.yard.restart()

    @rule()
    def restart(self) -> None:
        self.yard.restart()

    @rule()
    def shorten(self) -> None:
        """Single events of what has ended go."""

        async def work() -> None:
            due = await self.yard.store.read(partial(retention.to_shorten, ended_before=1e12))
            await self.yard.store.write(partial(retention.shorten, due=due))

        self.do(work())

    @rule(kept=st.integers(0, 2))
    def expire(self, kept: int) -> None:
        async def work() -> None:
            for journal in self.yard.journals.values():
                for name in [name for name, live in journal._live.items() if live.execution.state is State.ENDED]:
                    journal.drop(name)
            due = await self.yard.store.read(partial(retention.to_expire, kept=kept))
            await self.yard.store.write(partial(retention.expire, due=due))

        self.do(work())

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        async def work() -> None:
            await self.yard.notebook(name)
            key = self.yard.keys[name]
            del self.yard.journals[name], self.yard.running[name]
            await self.yard.store.write(partial(notebook_records.remove, key=key))

        self.do(work())

    @rule(name=NAMES, letter=LETTER)
    def collect_beside_a_commit(self, name: str, letter: str) -> None:
        """Files are collected while the same content comes into use."""

        async def work() -> None:
            live = await self.yard.start(name)
            live.output(display({"text/html": content_of(letter)}), SIZE + 100)
            await asyncio.gather(
                blob_uses.collect(self.yard.store), self.yard.commit(name), blob_uses.collect(self.yard.store)
            )

        self.do(work())

    @rule()
    def collect(self) -> None:
        self.do(blob_uses.collect(self.yard.store))
        assert self.yard.files() == {digest for _, _, digest in self.do(self.yard.store.read(noted))}

    @invariant()
    def what_is_referred_to_is_noted_and_there(self) -> None:
        uses, refs = self.do(self.yard.store.read(noted)), self.do(self.yard.store.read(referred))
        assert refs <= uses
        assert {digest for _, _, digest in uses} <= self.yard.files()

    @invariant()
    def memory_refers_to_nothing_else(self) -> None:
        there = self.yard.files()
        for journal in self.yard.journals.values():
            for live in journal._live.values():
                assert parts.used(live.snapshot().outputs) <= there


@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 20), ("postgresql", 3), ("rows", 4)])
def test_any_mix(kind: str, examples: int, postgres: PostgresServer) -> None:
    run_state_machine_as_test(
        lambda: Machine(Ground(kind, postgres)),
        settings=settings(max_examples=examples, stateful_step_count=20, deadline=None),
    )


@pytest.fixture(params=KINDS)
def yard(request: pytest.FixtureRequest) -> Iterator[Yard]:
    """On each database, its large parts in files and in rows."""
    yard = Yard(Ground(request.param, request.getfixturevalue("postgres") if request.param != "sqlite" else None))
    yield yard
    yard.close()


@pytest.fixture
def files_yard() -> Iterator[Yard]:
    """With files in a folder."""
    yard = Yard(Ground("sqlite"))
    yield yard
    yard.close()


async def test_a_stream_goes_on_after_a_restart_as_one_text(yard: Yard) -> None:
    live = await yard.start("nb")
    live.output(stream("a" * SIZE + "12\r"), SIZE + 50)
    await yard.commit("nb")
    yard.restart()
    await yard.notebook("nb")
    (again,) = yard.running["nb"]
    again.output(stream("b"), 50)
    again.finish(End.SUCCEEDED, "", "")
    await yard.commit("nb")
    stored = await yard.store.read(
        partial(records.load, notebook=yard.keys["nb"], execution_id=again.execution.execution_id)
    )
    assert stored is not None
    ref = stored.outputs[0]["text"]
    assert isinstance(ref, BlobRef)
    assert yard.store.blobs.text(ref.digest) == "b" + "a" * (SIZE - 1) + "12"


async def test_a_part_that_is_missing_at_a_restart_costs_only_itself(yard: Yard) -> None:
    live = await yard.start("nb")
    live.output(stream("a" * SIZE), SIZE + 50)
    await yard.commit("nb")
    await yard.store.write(lambda connection: yard.store.blobs.remove(connection, yard.files()))
    yard.restart()
    await yard.notebook("nb")
    (again,) = yard.running["nb"]
    assert "cannot be read: No such file" in again.snapshot().outputs[0]["text"]


async def test_a_disk_that_takes_no_file_fails_only_that_transaction(files_yard: Yard) -> None:
    live = await files_yard.start("nb")
    live.output(stream("a" * SIZE), SIZE + 50)
    blobs = files_yard.ground.folder / "blobs"
    blobs.rmdir()
    blobs.write_text("no folder")
    failed, other = await asyncio.gather(
        files_yard.commit("nb"), files_yard.store.write(retention.forget_expired), return_exceptions=True
    )
    assert isinstance(failed, StoreFailed)
    assert other is None
    blobs.unlink()
    blobs.mkdir()
    await files_yard.commit("nb")
    assert len(files_yard.files()) == 1


_LATER = {
    "notebooks": ("labels", "owner", "owner_fence"),
    "executions": ("output_bytes", "stored_bytes"),
    "tenants": ("quotas",),
    "sandboxes": ("made_of", "node"),
    "tokens": ("token_id", "name", "scope", "certificate", "expires_at", "used_at"),
}
"""Columns that came with later schemas."""


async def test_rows_of_the_schema_before_stay_as_they_are(files_yard: Yard) -> None:
    """Large values that stand inline are read; only what changes is written anew."""
    live = await files_yard.start("nb")
    live.output(display({"text/html": "small"}), 50)
    live.finish(End.SUCCEEDED, "", "")
    await files_yard.commit("nb")

    def as_before(connection: Connection) -> None:
        for table, column in (("executions", "outputs"), ("event_batches", "events")):
            sql = f"UPDATE {table} SET {column} = replace({column}, 'small', '{'x' * SIZE}')"
            connection.exec_driver_sql(sql)
        connection.exec_driver_sql("DROP TABLE blob_uses")
        connection.exec_driver_sql("ALTER TABLE sandboxes DROP COLUMN network")
        connection.exec_driver_sql("ALTER TABLE sandboxes DROP COLUMN asked")
        for index in ("executions_by_size", "tokens_by_id", "notebooks_by_owner"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
        for table, columns in _LATER.items():
            for column in columns:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in ("usage", "workflows", "artifacts", "nodes", "writers", "blob_pieces", "blobs"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.exec_driver_sql("UPDATE meta SET value = '3' WHERE key = 'schema_version'")

    await files_yard.store.write(as_before)
    files_yard.restart()
    journal = await files_yard.notebook("nb")
    again = await journal.open(live.execution.execution_id)
    assert again.snapshot().outputs[0]["data"] == {"text/html": "x" * SIZE}
    events = [item async for item in again.log.follow(0)]
    assert events[1].body["data"] == {"text/html": "x" * SIZE}
    assert files_yard.files() == set()
    again.output(stream("late"), 50)
    await files_yard.commit("nb")
    assert len(files_yard.files()) == 1
