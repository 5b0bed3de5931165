"""What a store needs of the database that it is on. One class of each: `Sqlite`, `Postgresql`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection


class Transaction(Protocol):
    """One transaction of the writer, which several jobs share."""

    connection: Connection

    def begin_job(self) -> None:
        """What follows is one job's, and can be undone without the others'."""

    def end_job(self) -> None:
        """What is wrong with any of its statements is known now. Raises SQLAlchemy's errors."""

    def undo_job(self) -> None:
        """Undoes the job that was begun last."""


class Database(Protocol):
    """A database that is connected to. All of it blocks; errors are SQLAlchemy's, or the driver's own."""

    errors: tuple[type[Exception], ...]
    """The driver's own errors, beside SQLAlchemy's."""

    def prepare(self, *, used: bool) -> Mapping[str, str]:
        """Makes or migrates the tables; returns what stands in `meta`. Raises StoreFailed.

        `used`: the data folder was in use before.
        """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """A transaction of the writer, on the one connection that writes: committed at the block's end.

        When the block is left without an error all of it is stored; with one nothing is.
        """

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection that sees one moment of the database, which everything committed before has reached."""

    def was_in_the_way(self, failed: BaseException) -> bool:
        """Whether the same may be tried again at once: somebody else's transaction was in the way, say."""

    def was_lost(self, failed: BaseException) -> bool:
        """Whether the connection went away under a reader, who may have another one."""

    def size(self) -> int:
        """Bytes of the database. Raises OSError, StoreFailed."""

    def stop_waiting(self) -> None:
        """The store is being closed: whatever waits for the database gives up."""

    def close(self) -> None:
        """Lets go of it."""
