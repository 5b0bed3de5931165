"""The one writer: what was awaited is on disk, what failed is not, and neighbours do not notice."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from tests.stores import Ground

from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.store.errors import Fenced
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import meta


def put(key: str, value: str = "v"):
    def work(connection: Connection) -> str:
        connection.execute(insert(meta).values(key=key, value=value))
        return key

    return work


def keys(connection: Connection) -> set[str]:
    return set(connection.execute(select(meta.c.key)).scalars())


@pytest.fixture
def store(ground: Ground):
    """On either database."""
    store = ground.open()
    yield store
    store.close()


@pytest.fixture
def file_store(tmp_path: Path):
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


async def test_closing_commits_what_waits(ground: Ground) -> None:
    store = ground.open()
    writes = [asyncio.ensure_future(store.write(put(f"k{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    store.close()
    await asyncio.gather(*writes)
    again = ground.open()
    assert {f"k{n}" for n in range(20)} <= await again.read(keys)
    again.close()


async def test_a_store_that_cannot_write_says_so_and_recovers(file_store: Store) -> None:
    def limit(pages: int):
        def work(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        return work

    await file_store.write(limit(1))  # as small as the file is now: the next page finds no room
    with pytest.raises(StoreFailed, match="full"):
        await file_store.write(put("big", "x" * 1_000_000))
    await file_store.write(limit(1_000_000))
    assert await file_store.write(put("small")) == "small"
    assert "big" not in await file_store.read(keys)


def test_the_controller_keeps_its_id(ground: Ground) -> None:
    first = ground.open()
    first.close()
    second = ground.open()
    second.close()
    assert first.controller_id == second.controller_id != ""


def test_no_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_bytes(b"something else entirely" * 1000)
    with pytest.raises(StoreFailed, match="cannot be opened"):
        Store.open(tmp_path / "db.sqlite")


async def test_a_later_schema_is_refused(ground: Ground) -> None:
    store = ground.open()
    later = update(meta).where(meta.c.key == "schema_version").values(value="99")
    await store.write(lambda connection: connection.execute(later))
    store.close()
    with pytest.raises(StoreFailed, match="later version"):
        ground.open()


async def test_every_text_comes_back_as_it_was(store: Store) -> None:
    """U+0000 too, which code may print, and which not every database takes."""
    hot = Hot(insert(meta), ("key", "value"))
    for text in ("a\0b", "\0", "\x1a", "\x1a0\x1a1", "\0\x1a\0", "é\U0001f40d\r\n", ""):
        await store.write(put(f"core {text}", text))
        await store.write(partial(hot, values={"key": f"hot {text}", "value": text}))
        found = select(meta.c.key, meta.c.value).where(meta.c.value == text, meta.c.key.like("% %"))
        rows = await store.read(lambda connection, found=found: connection.execute(found).all())
        assert {tuple(row) for row in rows} == {(f"core {text}", text), (f"hot {text}", text)}


async def test_a_text_that_is_no_unicode_is_its_writers_fault(store: Store) -> None:
    """A lone surrogate has no bytes in UTF-8; neighbours do not notice."""
    refused, stored = await asyncio.gather(
        store.write(put("bad", "\ud800")), store.write(put("good")), return_exceptions=True
    )
    assert isinstance(refused, UnicodeEncodeError)
    assert stored == "good"


async def test_who_is_fenced_writes_nothing_and_all_who_wait_know(store: Store) -> None:
    def fence(connection: Connection) -> None:
        assert connection.execute(select(meta.c.key)).first() is not None  # it may ask the database
        raise Fenced("another controller has taken this one's place")

    store.guard = fence
    results = await asyncio.gather(*(store.write(put(f"k{n}")) for n in range(5)), return_exceptions=True)
    assert all(isinstance(result, Fenced) for result in results)
    store.guard = None
    await store.write(put("after"))
    assert "after" in (known := await store.read(keys))
    assert not {"k0", "k4"} & known


async def test_what_is_read_in_one_look_is_of_one_moment(store: Store) -> None:
    written, looked = threading.Event(), threading.Event()

    def look(connection: Connection) -> tuple[set[str], set[str]]:
        before = keys(connection)
        looked.set()
        assert written.wait(30)
        return before, keys(connection)

    looking = asyncio.ensure_future(store.read(look))
    assert await asyncio.to_thread(looked.wait, 30)
    await store.write(put("meanwhile"))
    written.set()
    before, after = await looking
    assert before == after
    assert "meanwhile" in await store.read(keys)


async def test_every_commit_is_synced(file_store: Store) -> None:
    """The settings that "survives the loss of power" rests on; tests/chaos/test_power.py shows what they do."""

    def pragmas(connection: Connection) -> tuple[str, int]:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return mode, connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    full = 2
    assert await file_store.write(pragmas) == ("wal", full)
