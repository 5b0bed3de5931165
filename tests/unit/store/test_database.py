"""The one writer: what was awaited is on disk, what failed is not, and neighbours do not notice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.store.schema import meta


def put(key: str, value: str = "v"):
    def work(connection: Connection) -> str:
        connection.execute(insert(meta).values(key=key, value=value))
        return key

    return work


def keys(connection: Connection) -> set[str]:
    return set(connection.execute(select(meta.c.key)).scalars())


@pytest.fixture
def store(tmp_path: Path):
    store = Store.open(tmp_path / "db.sqlite")
    yield store
    store.close()


async def test_what_was_awaited_is_read_back(store: Store) -> None:
    assert await store.write(put("a")) == "a"
    assert "a" in await store.read(keys)


async def test_a_refused_transaction_undoes_itself_and_no_neighbour(store: Store) -> None:
    def refuse(connection: Connection) -> None:
        put("undone")(connection)
        raise ValueError("no")

    results = await asyncio.gather(
        store.write(put("before")),
        store.write(refuse),
        store.write(put("before")),  # taken already
        store.write(put("after")),
        return_exceptions=True,
    )
    assert results[0] == "before"
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], IntegrityError)
    assert results[3] == "after"
    assert {"before", "after"} <= await store.read(keys)
    assert "undone" not in await store.read(keys)


async def test_many_writers_share_commits_and_all_are_stored(store: Store) -> None:
    await asyncio.gather(*(store.write(put(f"k{n}")) for n in range(500)))
    count = await store.read(lambda c: c.execute(select(func.count()).select_from(meta)).scalar_one())
    assert count >= 500


async def test_closing_commits_what_waits(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db.sqlite")
    writes = [asyncio.ensure_future(store.write(put(f"k{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    store.close()
    await asyncio.gather(*writes)
    again = Store.open(tmp_path / "db.sqlite")
    assert {f"k{n}" for n in range(20)} <= await again.read(keys)
    again.close()


async def test_a_store_that_cannot_write_says_so_and_recovers(store: Store) -> None:
    def limit(pages: int):
        def work(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        return work

    await store.write(limit(1))  # as small as the file is now: the next page finds no room
    with pytest.raises(StoreFailed, match="full"):
        await store.write(put("big", "x" * 1_000_000))
    await store.write(limit(1_000_000))
    assert await store.write(put("small")) == "small"
    assert "big" not in await store.read(keys)


def test_the_controller_keeps_its_id(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "db.sqlite")
    first.close()
    second = Store.open(tmp_path / "db.sqlite")
    second.close()
    assert first.controller_id == second.controller_id != ""


def test_no_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_bytes(b"something else entirely" * 1000)
    with pytest.raises(StoreFailed, match="cannot be opened"):
        Store.open(tmp_path / "db.sqlite")


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    import sqlite3

    Store.open(tmp_path / "db.sqlite").close()
    with sqlite3.connect(tmp_path / "db.sqlite") as raw:
        raw.execute("UPDATE meta SET value='99' WHERE key='schema_version'")
    raw.close()
    with pytest.raises(StoreFailed, match="later version"):
        Store.open(tmp_path / "db.sqlite")


async def test_every_commit_is_synced(store: Store) -> None:
    """The settings that "survives the loss of power" rests on; tests/chaos/test_power.py shows what they do."""

    def pragmas(connection: Connection) -> tuple[str, int]:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return mode, connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    full = 2
    assert await store.write(pragmas) == ("wal", full)
