"""Opening the database, the one writer thread, and reads beside it."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from cellyard_controller import clock
from cellyard_controller.store import migrations, schema
from cellyard_controller.store.blobs import Blobs
from cellyard_controller.store.errors import StoreDamaged, StoreFailed
from cellyard_controller.tallies import Durations, Tally

T = TypeVar("T")

_READERS = 2
_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    alone: bool
    posted: float
    """Monotonic time."""


class Store:
    """The database of one data folder.

    `write` runs a function in a transaction on the writer's thread and returns when it is committed. Exceptions
    that the function raises undo its own transaction only and reach the caller; errors of the database reach all
    callers of that commit as StoreFailed (IntegrityError reaches its own caller as it is).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.blobs = Blobs(path.parent / "blobs")
        """Files that transactions refer to."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._write_engine = _engine(path)
        self._read_engine = _engine(path, read_only=True)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._writer = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self.controller_id = ""
        self.commit_seconds = Durations(*_BOUNDS)
        """Of each transaction on disk, however many writes shared it."""
        self.write_seconds = Durations(*_BOUNDS)
        """Of each write, from its posting until it was on disk or refused."""
        self.failures = Tally()
        """Writes that the database did not take."""

    @classmethod
    def open(cls, path: Path, *, used: bool = False) -> Store:
        """Opens or makes the database. Blocks; raises StoreFailed with what is wrong and what to do.

        `used`: its folder was in use before, so an empty file is one that has lost its content, and no new one.
        """
        if used and path.exists() and not path.stat().st_size:
            raise StoreFailed(
                f"the database {path} is empty, although its folder was in use: put a copy of it there, "
                "or remove the file to begin anew"
            )
        store = cls(path)
        try:
            with store._write_engine.begin() as connection:
                store.controller_id = _prepare(connection)
            store.blobs.open()
        except (DBAPIError, sqlite3.Error, OSError) as failed:
            store._dispose()
            raise StoreFailed(
                f"the database {path} cannot be opened: {_cause(failed)}. Check the disk and the file's owner, "
                "or move the file away to begin with an empty one."
            ) from failed
        except StoreFailed:
            store._dispose()
            raise
        store._writer.start()
        return store

    async def write(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """Commits what `work` does, and only then returns its result.

        `alone`: nothing else is in its transaction, so that it sees only what is committed. A caller that is
        cancelled while it waits does not take its transaction back.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, loop, future, alone, time.monotonic()))
        return await future

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on a reading connection; it sees everything committed before the call. Raises StoreFailed."""

        def run() -> T:
            try:
                with self._read_engine.connect() as connection:
                    return work(connection)
            except DBAPIError as failed:
                error = StoreDamaged if is_damage(failed) else StoreFailed
                raise error(read_failure(failed)) from failed

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    def close(self) -> None:
        """Commits what waits and lets go of the file. Blocks."""
        if self._writer.is_alive():
            self._jobs.put(None)
            self._writer.join()
        self._readers.shutdown(wait=True)
        self._dispose()

    def _count(self, began: float, outcomes: list[_Outcome]) -> None:
        now = time.monotonic()
        self.commit_seconds.observe(now - began)
        for job, _, error in outcomes:
            self.write_seconds.observe(now - job.posted)
            if isinstance(error, StoreFailed):
                self.failures.add()

    def _dispose(self) -> None:
        self._write_engine.dispose()
        self._read_engine.dispose()

    def _write_loop(self) -> None:
        with self._write_engine.connect() as connection:
            while (first := self._jobs.get()) is not None:
                jobs = [first]
                stop = False
                while not self._jobs.empty():
                    job = self._jobs.get()
                    if job is None:
                        stop = True
                        break
                    jobs.append(job)
                for batch in _batches(jobs):
                    began = time.monotonic()
                    outcomes = _commit(connection, batch)
                    self._count(began, outcomes)
                    _settle(outcomes)
                if stop:
                    return


def _batches(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """The jobs in their order, by the transaction that they share."""
    for alone, some in groupby(jobs, lambda job: job.alone):
        if alone:
            yield from ([job] for job in some)
        else:
            yield list(some)


_Outcome = tuple[_Job, Any, BaseException | None]


def _commit(connection: Connection, jobs: list[_Job]) -> list[_Outcome]:
    """Runs the jobs and commits once; where the database itself fails, no job is stored."""
    outcomes: list[_Outcome] = []
    broken: BaseException | None = None
    try:
        with _transaction(connection) as execute:
            if len(jobs) == 1:  # a savepoint costs as much as a statement
                return [(jobs[0], jobs[0].work(connection), None)]
            for job in jobs:
                execute("SAVEPOINT job")
                try:
                    outcomes.append((job, job.work(connection), None))
                except DBAPIError as failed:
                    if not isinstance(failed, IntegrityError):
                        # SQLite ends the whole transaction when the disk is full; then undoing the savepoint
                        # fails too, and hides why.
                        broken = failed
                        raise
                    execute("ROLLBACK TO job")
                    outcomes.append((job, None, failed))
                except Exception as refused:  # the job's own; only its savepoint is undone
                    execute("ROLLBACK TO job")
                    outcomes.append((job, None, refused))
                execute("RELEASE job")
    except IntegrityError as conflict:  # of the only job
        return [(jobs[0], None, conflict)]
    except (DBAPIError, sqlite3.Error) as failed:
        if len(jobs) > 1 and is_damage(broken or failed):  # it is in one job's way, not in everybody's
            return [outcome for job in jobs for outcome in _commit(connection, [job])]
        error = StoreFailed(f"the store does not take writes: {_cause(broken or failed)}")
        return [(job, None, error) for job in jobs]
    except Exception as refused:  # of the only job
        return [(jobs[0], None, refused)]
    return outcomes


@contextmanager
def _transaction(connection: Connection) -> Iterator[Callable[[str], object]]:
    """A transaction of the driver, committed at the block's end; gives what executes a statement in it.

    SQLAlchemy's own takes four times as long as the driver's, at the two commits of each run.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield driver.execute
        driver.execute("COMMIT")
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        raise
    finally:
        connection.rollback()  # it has one of its own where it executed anything, of which the driver knows nothing


def _settle(outcomes: list[_Outcome]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, settled)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more


def _resolve(outcomes: list[_Outcome]) -> None:
    for job, result, error in outcomes:
        if job.future.done():
            continue
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)


def _engine(path: Path, *, read_only: bool = False) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": 10, "check_same_thread": False}, pool_size=_READERS
    )

    @event.listens_for(engine, "connect")
    def _configure(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None  # transactions are begun below, not by the driver
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")  # a commit survives the loss of power
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA temp_store=MEMORY")
        if read_only:
            raw.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:  # else the writer has begun it
            driver.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _prepare(connection: Connection) -> str:
    """Makes the tables of a new database, checks an old one's version; returns the controller's id."""
    if not connection.dialect.has_table(connection, "meta"):
        schema.metadata.create_all(connection)
        connection.execute(
            insert(schema.meta),
            [
                {"key": "schema_version", "value": str(schema.SCHEMA_VERSION)},
                {"key": "controller_id", "value": uuid.uuid4().hex},
            ],
        )
    stored = {row.key: row.value for row in connection.execute(select(schema.meta))}
    version = int(stored["schema_version"])
    if version < schema.SCHEMA_VERSION:
        migrations.migrate(connection, version)
        newest = update(schema.meta).where(schema.meta.c.key == "schema_version")
        connection.execute(newest.values(value=str(schema.SCHEMA_VERSION)))
    elif version > schema.SCHEMA_VERSION:
        raise StoreFailed(
            f"the database was written by a later version (schema {version}, this one knows "
            f"{schema.SCHEMA_VERSION}): use that version or a data folder of its own"
        )
    _keep_time(connection, stored.get("clock"))
    return str(stored["controller_id"])


def _keep_time(connection: Connection, stored: str | None) -> None:
    """Stored deadlines are moments of the clock that was stored with them."""
    now = clock.go_on(stored)
    if stored is None:
        connection.execute(insert(schema.meta).values(key="clock", value=now))
    elif stored != now:
        connection.execute(update(schema.meta).where(schema.meta.c.key == "clock").values(value=now))


def is_damage(failed: BaseException) -> bool:
    """Whether SQLite says that the file itself is damaged, rather than that it cannot get at it."""
    cause = failed.orig if isinstance(failed, DBAPIError) else failed
    code = getattr(cause, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def read_failure(failed: DBAPIError) -> str:
    """Why something could not be read, for people."""
    return f"the store cannot be read: {_cause(failed)}"


def _cause(failed: BaseException) -> str:
    return str(failed.orig) if isinstance(failed, DBAPIError) and failed.orig else str(failed)
