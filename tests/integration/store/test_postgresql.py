"""A PostgreSQL server that goes away, stands still, or refuses: what was confirmed is there, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select
from tests.integration.store.cutting_proxy import Cut, CuttingProxy
from tests.postgres_server import PostgresServer

from cellyard_controller.config import LibraryConfig
from cellyard_controller.executions import blob_uses, usage
from cellyard_controller.executions.usage import Day
from cellyard_controller.ids import TenantName
from cellyard_controller.library import artifact_records
from cellyard_controller.library import places as library_places
from cellyard_controller.store import Store, StoreFailed, blobs, places, postgresql
from cellyard_controller.store.schema import meta, writers
from cellyard_controller.store.schema import usage as usage_table

WITHIN = 60.0
_LIMITS = LibraryConfig()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that may be stopped: nobody else has it."""
    server = PostgresServer()
    yield server
    server.close()


def at(url: str, folder: Path, **more: float) -> places.Postgres:
    (folder / "spool").mkdir(exist_ok=True)
    return places.Postgres(url, folder / "spool", folder / "blobs", **more)


@pytest.fixture
async def store(server: PostgresServer, folder: Path) -> AsyncIterator[Store]:
    """On a database of that server, with limits that a test can wait for."""
    url = server.create()
    store = await asyncio.to_thread(Store.open, at(url, folder, timeout_s=1.0))
    yield store
    await asyncio.to_thread(store.close)
    server.drop(url)


def put(key: str, connection: Connection) -> str:
    connection.execute(insert(meta).values(key=key, value="v"))
    return key


def keys(connection: Connection) -> set[str]:
    return {key for key in connection.execute(select(meta.c.key)).scalars() if key.startswith("k")}


async def once_it_answers(store: Store) -> None:
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                await store.try_writing()
            except StoreFailed:
                await asyncio.sleep(0.05)
            else:
                return


async def until_it_fails(store: Store) -> None:
    """It has refused something, or is in doubt about a commit."""
    async with asyncio.timeout(WITHIN):
        while True:
            if store.failing:
                return
            await asyncio.sleep(0.05)


class Writing:
    """Writers that do not stop, and what they were told."""

    def __init__(self, store: Store) -> None:
        self._store, self._numbers, self._end = store, itertools.count(), asyncio.Event()
        self.stored: set[str] = set()
        self.refused: set[str] = set()
        self._told = asyncio.Condition()

    async def __aenter__(self) -> Writing:
        self._tasks = [asyncio.create_task(self._write()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks)

    async def more(self, what: str, count: int = 20) -> None:
        """Waits for so many more that were stored, or refused."""
        told: set[str] = getattr(self, what)
        wanted = len(told) + count
        async with asyncio.timeout(WITHIN), self._told:
            await self._told.wait_for(lambda: len(told) >= wanted)

    async def _write(self) -> None:
        while not self._end.is_set():
            key = f"k{next(self._numbers)}"
            try:
                await self._store.write(partial(put, key))
            except StoreFailed:
                self.refused.add(key)
                await asyncio.sleep(0.01)
            else:
                self.stored.add(key)
            async with self._told:
                self._told.notify_all()


async def test_a_server_that_dies_in_the_middle_of_writes_loses_nothing_it_confirmed(
    store: Store, server: PostgresServer
) -> None:
    async with Writing(store) as writing:
        for _ in range(3):
            await writing.more("stored")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await writing.more("stored")
    assert await store.read(keys) == writing.stored


async def test_a_server_that_stands_still_refuses_in_time_and_goes_on_afterwards(
    store: Store, server: PostgresServer
) -> None:
    async with Writing(store) as writing:
        await writing.more("stored")
        server.pause()
        try:
            await until_it_fails(store)
        finally:
            server.resume()
        await writing.more("stored")
    assert await store.read(keys) == writing.stored


async def test_no_read_and_no_write_waits_for_a_server_that_stands_still_for_ever(
    store: Store, server: PostgresServer
) -> None:
    await store.write(partial(put, "k0"))
    server.pause()
    try:
        async with asyncio.timeout(WITHIN):
            with pytest.raises(StoreFailed, match="does not take writes"):
                await store.write(partial(put, "k1"))
    finally:
        server.resume()
    await once_it_answers(store)
    assert await store.read(keys) == {"k0"}


async def test_a_server_that_is_gone_refuses_at_once_and_its_return_is_seen(
    store: Store, server: PostgresServer
) -> None:
    await store.write(partial(put, "k0"))
    assert await store.read(keys) == {"k0"}
    await asyncio.to_thread(server.stop)
    try:
        with pytest.raises(StoreFailed, match="does not take writes"):
            await store.write(partial(put, "k1"))
        with pytest.raises(StoreFailed, match="cannot be read"):
            await store.read(keys)
        assert "does not take writes" in store.failing
    finally:
        await asyncio.to_thread(server.start)
    assert await store.read(keys) == {"k0"}
    await store.write(partial(put, "k2"))
    assert store.failing == ""


async def test_a_part_that_is_longer_than_a_row_is_read_as_it_was_written(server: PostgresServer, folder: Path) -> None:
    url = server.create()
    (folder / "spool").mkdir()
    store = await asyncio.to_thread(Store.open, places.Postgres(url, folder / "spool"))
    pieces = [chr(ord("a") + number) * 700_000 for number in range(5)]
    digest, size = await store.write(lambda connection: store.blobs.keep_pieces(connection, iter(pieces)))
    assert (digest, size) == blobs.measure("".join(pieces))
    assert store.blobs.text(digest) == "".join(pieces)
    assert store.blobs.measure() == size
    with store.blobs.open_file(digest) as file:
        await store.write(lambda connection: store.blobs.remove(connection, [digest]))
        assert len(file.readall()) == size
    with pytest.raises(FileNotFoundError):
        store.blobs.open_file(digest)
    assert list((folder / "spool").iterdir()) == []
    await asyncio.to_thread(store.close)
    server.drop(url)


@pytest.mark.parametrize("cut", ["before", "after", "late"])
async def test_a_commit_that_gets_no_answer_is_told_as_what_it_was(
    server: PostgresServer, folder: Path, cut: Cut
) -> None:
    url = server.create()
    async with CuttingProxy(server.port) as proxy:
        through = url.replace(f":{server.port}/", f":{proxy.port}/")
        store = await asyncio.to_thread(Store.open, at(through, folder))
        try:
            await store.write(partial(put, "k0"))
            proxy.cut = cut
            together = [store.write(partial(put, f"k{number}")) for number in (1, 2)]
            async with asyncio.timeout(WITHIN):
                told = await asyncio.gather(*together, return_exceptions=True)
            proxy.release.set()
            stored = {"k0"} | {key for key in told if isinstance(key, str)}
            refused = [key for key in told if not isinstance(key, str)]
            assert all(isinstance(each, StoreFailed) for each in refused)
            # One of the two may have been in a transaction of its own.
            assert len(stored) == 3 if cut == "after" else refused
            await store.write(partial(put, "k3"))
            assert await store.read(keys) == stored | {"k3"}
        finally:
            await asyncio.to_thread(store.close)
    server.drop(url)


async def test_a_database_that_becomes_read_only_says_so_and_recovers(store: Store, server: PostgresServer) -> None:
    name = (await store.read(lambda c: c.exec_driver_sql("SELECT current_database()").scalar_one()),)[0]

    def read_only(setting: str) -> None:
        server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}")
        server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    await store.write(partial(put, "k0"))
    read_only("on")
    with pytest.raises(StoreFailed, match="read-only"):
        await store.write(partial(put, "k1"))
    assert await store.read(keys) == {"k0"}
    read_only("off")
    await once_it_answers(store)
    await store.write(partial(put, "k2"))
    assert await store.read(keys) == {"k0", "k2"}


async def test_connections_that_went_away_while_nothing_was_done_cost_nothing(
    store: Store, server: PostgresServer
) -> None:
    for number in range(3):
        await store.write(partial(put, f"k{number}"))
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cellyard%'")
    assert await store.read(keys) == {"k0", "k1", "k2"}


async def test_a_user_who_may_not_write_is_told_so(server: PostgresServer, folder: Path) -> None:
    server.execute("DROP ROLE IF EXISTS reader")
    server.execute("CREATE ROLE reader LOGIN")
    url = server.create().replace("postgres@", "reader@")
    with pytest.raises(StoreFailed, match="permission denied"):
        Store.open(at(url, folder))
    server.drop(url)


@pytest.mark.parametrize(
    ("made", "statement", "why"),
    [
        ("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", "", "encoded in LATIN1"),
        ("", "CREATE TABLE customers (id int)", "other tables in it"),
        ("", "CREATE TABLE meta (a int); CREATE TABLE notebooks (a int); CREATE TABLE executions (a int)", "not Cell"),
        ("", "DROP SCHEMA public", "no schema"),
    ],
)
def test_a_database_that_is_not_fit_is_refused_and_left_alone(
    server: PostgresServer, folder: Path, made: str, statement: str, why: str
) -> None:
    server.execute(f"CREATE DATABASE unfit {made}")
    url = server.url("unfit")
    try:
        if statement:
            server.execute(statement, url)
        count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        before = server.execute(count, url)
        with pytest.raises(StoreFailed, match=why):
            Store.open(at(url, folder))
        assert server.execute(count, url) == before
    finally:
        server.drop(url)


def test_a_standby_is_refused_and_the_primary_asked_for(server: PostgresServer, folder: Path) -> None:
    standby = PostgresServer(standby_of=server)
    try:
        with pytest.raises(StoreFailed, match="is a standby and takes no writes: name the primary"):
            Store.open(at(standby.url(), folder))
    finally:
        standby.close()


def test_a_server_that_is_too_old_is_refused(
    server: PostgresServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_OLDEST", 99)
    with pytest.raises(StoreFailed, match=r"its server is PostgreSQL [0-9]{2}: 99 or later is needed"):
        Store.open(at(server.url(), folder))


def test_a_server_that_is_not_there_is_named_and_no_password_is(folder: Path) -> None:
    with pytest.raises(StoreFailed, match=r"postgresql://u:\*\*\*@127.0.0.1:9/db cannot be opened") as failed:
        Store.open(at("postgresql://u:secret@127.0.0.1:9/db", folder))
    assert "secret" not in str(failed.value)
    missing = places.Postgres("postgresql://u@127.0.0.1:9/db", folder, folder, folder / "none")
    with pytest.raises(StoreFailed, match="password_file"):
        Store.open(missing)


async def test_controllers_that_begin_together_make_the_tables_once(server: PostgresServer, folder: Path) -> None:
    url = server.create()
    stores = await asyncio.gather(*(asyncio.to_thread(Store.open, at(url, folder)) for _ in range(4)))
    await asyncio.gather(*(store.write(partial(put, f"k{number}")) for number, store in enumerate(stores)))
    assert await stores[0].read(keys) == {"k0", "k1", "k2", "k3"}
    names = {name for store in stores for name in await store.read(lambda c: c.execute(select(writers.c.writer)).all())}
    assert len(names) == 4
    await asyncio.gather(*(asyncio.to_thread(store.close) for store in stores))
    server.drop(url)


async def test_controllers_that_get_into_each_others_way_both_get_through(server: PostgresServer, folder: Path) -> None:
    """Each adds to the other's tenant second: one of the two transactions is undone, and done again."""
    url = server.create()
    one, two = [await asyncio.to_thread(Store.open, at(url, folder)) for _ in range(2)]
    meeting, met = threading.Barrier(2), set[str]()

    def add(names: list[str], connection: Connection) -> None:
        for name in names:
            usage.add(connection, Day(TenantName(name), "2024-02-29", 1, 1.0, 1.0, 1, 1))
            if names[0] not in met:  # the first time; whoever does it again finds nobody there
                met.add(names[0])
                meeting.wait(WITHIN)

    async with asyncio.timeout(WITHIN):
        await asyncio.gather(one.write(partial(add, ["a", "b"])), two.write(partial(add, ["b", "a"])))
    counted = select(usage_table.c.tenant, usage_table.c.executions).order_by(usage_table.c.tenant)
    assert await one.read(lambda c: [tuple(row) for row in c.execute(counted)]) == [("a", 2), ("b", 2)]
    await asyncio.to_thread(one.close)
    await asyncio.to_thread(two.close)
    server.drop(url)


async def test_nobody_sweeps_while_another_controller_comes_to_refer_to_a_part(
    server: PostgresServer, folder: Path
) -> None:
    url = server.create()
    one, two = [await asyncio.to_thread(Store.open, at(url, folder)) for _ in range(2)]
    text = "x" * 100_000
    digest, _ = blobs.measure(text)
    kept, go_on = threading.Event(), threading.Event()

    def keep(connection: Connection) -> None:
        one.blobs.keep(connection, digest, text)
        kept.set()
        assert go_on.wait(WITHIN)
        place = library_places.Place(TenantName("t"))
        record = artifact_records.ArtifactRecord("a", "str", "", {}, digest, len(text), 1.0)
        artifact_records.put(connection, place, record, 1, _LIMITS)

    keeping = asyncio.ensure_future(one.write(keep))
    assert await asyncio.to_thread(kept.wait, WITHIN)
    assert await blob_uses.collect(two) == 0
    go_on.set()
    await keeping
    assert await blob_uses.collect(two) == 0
    assert two.blobs.text(digest) == text
    await asyncio.to_thread(one.close)
    await asyncio.to_thread(two.close)
    server.drop(url)
