"""A database in a file, which one controller has for itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from cellyard_controller.store import preparing
from cellyard_controller.store.errors import StoreFailed, cause

_READERS = 2


class Sqlite:
    """In WAL mode: readers do not wait for the writer. A commit survives the loss of power."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_engine = engine(path)
        self._read_engine = engine(path, read_only=True)
        self._writer: Connection | None = None

    def prepare(self, *, used: bool) -> dict[str, str]:
        """Makes or migrates the tables; returns what stands in `meta`. Raises StoreFailed.

        `used`: its folder was in use before, so an empty file is one that has lost its content, and no new one.
        """
        if used and self._path.exists() and not self._path.stat().st_size:
            raise StoreFailed(
                f"the database {self._path} is empty, although its folder was in use: put a copy of it there, "
                "or remove the file to begin anew"
            )
        try:
            with self._write_engine.begin() as connection:
                stored = preparing.prepare(connection)
                preparing.keep_time(connection, stored.get("clock"))
                return stored
        except (DBAPIError, sqlite3.Error, OSError) as failed:
            raise StoreFailed(
                f"the database {self._path} cannot be opened: {cause(failed)}. Check the disk and the file's owner, "
                "or move the file away to begin with an empty one."
            ) from failed

    @contextmanager
    def transaction(self) -> Iterator[_Transaction]:
        """A transaction of the driver, committed at the block's end.

        SQLAlchemy's own takes four times as long as the driver's, at the two commits of each run.
        """
        if self._writer is None:
            self._writer = self._write_engine.connect()
        driver = self._writer.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute("BEGIN IMMEDIATE")
        try:
            yield _Transaction(self._writer, driver)
            driver.execute("COMMIT")
        except BaseException:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            raise
        finally:
            # It has one of its own where it executed anything, of which the driver knows nothing.
            self._writer.rollback()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one moment of the database."""
        with self._read_engine.connect() as connection:
            yield connection

    def was_in_the_way(self, _failed: BaseException) -> bool:
        """Nobody else is there."""
        return False

    def was_lost(self, _failed: BaseException) -> bool:
        """A file does not go away."""
        return False

    def size(self) -> int:
        """Bytes of the file with its log. Raises OSError."""
        return sum(path.stat().st_size for path in self._path.parent.glob(f"{self._path.name}*"))

    def stop_waiting(self) -> None:
        """It waits for nobody."""

    def close(self) -> None:
        """Lets go of the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._write_engine.dispose()
        self._read_engine.dispose()


class _Transaction:
    def __init__(self, connection: Connection, driver: sqlite3.Connection) -> None:
        self.connection = connection
        self._driver = driver
        self._begun = False

    def begin_job(self) -> None:
        """The next job; the one before it has become a part of the transaction."""
        if self._begun:
            self._driver.execute("RELEASE job")
        self._driver.execute("SAVEPOINT job")
        self._begun = True

    def end_job(self) -> None:
        """What is wrong with a statement is known at once."""

    def undo_job(self) -> None:
        """Undoes the last one."""
        self._driver.execute("ROLLBACK TO job")


def engine(path: Path, *, read_only: bool = False) -> Engine:
    made = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": 10, "check_same_thread": False}, pool_size=_READERS
    )

    @event.listens_for(made, "connect")
    def _configure(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None  # transactions are begun below, not by the driver
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")  # a commit survives the loss of power
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA temp_store=MEMORY")
        if read_only:
            raw.execute("PRAGMA query_only=ON")

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:  # else the writer has begun it
            driver.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return made
