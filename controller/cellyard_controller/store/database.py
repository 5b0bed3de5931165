"""Opening the database, the one writer thread, and reads beside it."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from cellyard_controller.store import places, schema
from cellyard_controller.store.blob_files import BlobFiles
from cellyard_controller.store.blobs import Blobs
from cellyard_controller.store.databases import Database
from cellyard_controller.store.errors import (
    Fenced,
    StoreAway,
    StoreDamaged,
    StoreFailed,
    cause,
    is_damage,
    read_failure,
)
from cellyard_controller.store.places import Place, SqliteFile
from cellyard_controller.store.sqlite import Sqlite
from cellyard_controller.tallies import Durations, Tally

T = TypeVar("T")

RESTORED = "restored"
"""The row of `meta` that a restored database has until its first controller has seen to what had not ended."""

_READERS = 2
_TRIES = 3
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
    """The database of one controller, or of several that share it.

    `write` runs a function in a transaction on the writer's thread and returns when it is committed. Exceptions
    that the function raises undo its own transaction only and reach the caller; errors of the database reach all
    callers of that commit as StoreFailed (IntegrityError reaches its own caller as it is). Where another controller's
    transaction was in the way, the function is run again.
    """

    def __init__(self, place: Place) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._database, self.blobs, self._room = self._on(place)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._writer = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self.guard: Callable[[Connection], None] | None = None
        """Called first in each transaction that writes, on its connection. Where it raises `Fenced`, nothing is
        written, and all who wait for that transaction get it. Set it before the first write."""
        self.controller_id = ""
        self.node = ""
        """The node that this controller runs on, where several share the database."""
        self.restored = ""
        """The moment of the backup that it was restored from, where nobody has seen to what that left unfinished."""
        self.commit_seconds = Durations(*_BOUNDS)
        """Of each transaction on disk, however many writes shared it."""
        self.write_seconds = Durations(*_BOUNDS)
        """Of each write, from its posting until it was on disk or refused."""
        self.failures = Tally()
        """Writes that the database did not take."""
        self.failing = ""
        """Why it took the last write not; empty where it did."""

    @classmethod
    def open(cls, place: Place | Path, *, used: bool = False) -> Store:
        """Opens or makes the database. Blocks; raises StoreFailed with what is wrong and what to do.

        `place`: or the path of SQLite's file, whose folder has the files too. `used`: the data folder was in use
        before, so an empty file is one that has lost its content, and no new one.
        """
        if isinstance(place, Path):
            place = SqliteFile(place, place.parent / "blobs")
        store = cls(place)
        try:
            stored = store._database.prepare(used=used)
            store.controller_id, store.restored = stored["controller_id"], stored.get(RESTORED, "")
            store.blobs.open()
        except OSError as failed:
            store._database.close()
            raise StoreFailed(f"the folder of large outputs and artifacts cannot be opened: {failed}") from failed
        except StoreFailed:
            store._database.close()
            raise
        store._writer.start()
        return store

    def _on(self, place: Place) -> tuple[Database, Blobs, Path]:
        """The database, its files, and a folder on whose disk they are."""
        if isinstance(place, SqliteFile):
            return Sqlite(place.path), BlobFiles(place.blobs), place.path.parent
        from cellyard_controller.store.blob_rows import BlobRows

        try:
            from cellyard_controller.store.postgresql import Postgresql
        except ImportError as missing:
            raise places.driver_missing(missing) from missing

        def in_doubt(why: str) -> None:
            self.failing = why

        database = Postgresql(place, in_doubt)
        if place.blobs is None:
            return database, BlobRows(database.reading, place.spool, database.goes_on), place.spool
        return database, BlobFiles(place.blobs, shared=True), place.blobs

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
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def try_writing(self) -> None:
        """Writes something that says nothing. Raises StoreFailed."""
        same = update(schema.meta).where(schema.meta.c.key == "schema_version").values(key="schema_version")
        await self.write(lambda connection: connection.execute(same))

    async def saw_to_restored(self) -> None:
        """What a backup left unfinished has its ends. Raises StoreFailed."""
        await self.write(
            lambda connection: connection.execute(delete(schema.meta).where(schema.meta.c.key == RESTORED))
        )
        self.restored = ""

    def measure(self) -> tuple[int, int, int]:
        """Bytes of the database with its log, of large parts, and of free room where files are.

        Blocks; raises OSError, StoreFailed.
        """
        room = os.statvfs(self._room)
        return self._database.size(), self.blobs.measure(), room.f_bavail * room.f_frsize

    def close(self) -> None:
        """Commits what waits and lets go of the database. Blocks."""
        self._database.stop_waiting()
        if self._writer.is_alive():
            self._jobs.put(None)
            self._writer.join()
        self._readers.shutdown(wait=True)
        self._database.close()

    def _read(self, work: Callable[[Connection], T], *, again: bool = True) -> T:
        try:
            with self._database.reading() as connection:
                return work(connection)
        except DBAPIError as failed:
            if again and self._database.was_lost(failed):
                return self._read(work, again=False)
            away = self._database.was_lost(failed)
            error = StoreAway if away else StoreDamaged if is_damage(failed) else StoreFailed
            raise error(read_failure(failed)) from failed

    def _count(self, began: float, outcomes: list[_Outcome]) -> None:
        now = time.monotonic()
        self.commit_seconds.observe(now - began)
        for job, _, error in outcomes:
            self.write_seconds.observe(now - job.posted)
            if isinstance(error, StoreFailed):
                self.failures.add()
            self.failing = str(error) if isinstance(error, StoreFailed) else ""

    def _write_loop(self) -> None:
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
                outcomes = self._commit(batch)
                self._count(began, outcomes)
                _settle(outcomes)
            if stop:
                return

    def _commit(self, jobs: list[_Job], *, tries: int = _TRIES) -> list[_Outcome]:
        """Runs the jobs and commits once; where the database itself fails, no job is stored."""
        outcomes: list[_Outcome] = []
        broken: BaseException | None = None
        failures: tuple[type[Exception], ...] = (DBAPIError, *self._database.errors)
        try:
            with self._database.transaction() as transaction:
                if self.guard is not None:
                    self.guard(transaction.connection)
                if len(jobs) == 1:  # a savepoint costs as much as a statement
                    outcomes = [(jobs[0], jobs[0].work(transaction.connection), None)]
                else:
                    for job in jobs:
                        transaction.begin_job()
                        try:
                            done = job.work(transaction.connection)
                            transaction.end_job()
                            outcomes.append((job, done, None))
                        except DBAPIError as failed:
                            if not isinstance(failed, IntegrityError):
                                # The whole transaction may be over, as SQLite's is when the disk is full; then
                                # undoing the savepoint fails too, and hides why.
                                broken = failed
                                raise
                            transaction.undo_job()
                            outcomes.append((job, None, failed))
                        except Exception as refused:  # the job's own; only its savepoint is undone
                            transaction.undo_job()
                            outcomes.append((job, None, refused))
        except Fenced as fenced:
            return [(job, None, fenced) for job in jobs]
        except IntegrityError as conflict:  # of the only job
            return [(jobs[0], None, conflict)]
        except failures as failed:
            why = broken or failed
            if len(jobs) > 1 and (is_damage(why) or self._database.was_in_the_way(why)):
                # It is in one job's way, not in everybody's.
                return [outcome for job in jobs for outcome in self._commit([job])]
            if tries > 1 and self._database.was_in_the_way(why):
                return self._commit(jobs, tries=tries - 1)
            kind = StoreAway if self._database.was_lost(why) else StoreFailed
            error = kind(f"the store does not take writes: {cause(why)}")
            return [(job, None, error) for job in jobs]
        except Exception as refused:  # of the only job, or of a database that cannot be reached
            return [(job, None, refused) for job in jobs]
        return outcomes


def _batches(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """The jobs in their order, by the transaction that they share."""
    for alone, some in groupby(jobs, lambda job: job.alone):
        if alone:
            yield from ([job] for job in some)
        else:
            yield list(some)


_Outcome = tuple[_Job, Any, BaseException | None]


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
