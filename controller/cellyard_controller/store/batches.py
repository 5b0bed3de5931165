"""Statements of a PostgreSQL connection whose answers nobody waits for: they go together with the next one that asks.

A transaction of the hot path is five to ten statements. One after the other, each is a wait for the server, and the
way there is what a commit's time consists of where the server is another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

Values = Mapping[str, Any] | Sequence[Any] | None
_Waiting = tuple[bytes, Values, bytes | None]
"""A statement, its values, and both as one text; none where a value is too long for that."""
_KEY = "cellyard_batch"
_LARGE = 64 * 1024


class Batch:
    """What waits to be sent on one connection, in its order. Errors are SQLAlchemy's, and come with the sending."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver, self._text = driver, psycopg.ClientCursor(driver)
        self._waiting: list[_Waiting] = []
        self._job_begins: int | None = None
        """How many of those that wait are before the job's own; None where they were sent."""
        self._jobs = False
        self.begins = False
        """Nothing of the transaction was sent yet."""

    def begin(self) -> None:
        """A transaction."""
        self._waiting, self._jobs, self.begins = [(b"BEGIN", None, b"BEGIN")], False, True

    def add(self, statement: bytes, values: Values = None) -> None:
        """One more. Values that cannot be sent are refused here, as the driver does it."""
        text = None if _is_large(values) else self._text.mogrify(statement, values).encode()
        self._waiting.append((statement, values, text))

    def begin_job(self) -> None:
        """What follows can be undone by itself; what was before it cannot any more, and was sent."""
        if self._jobs:
            self.add(b"RELEASE job")
        self.add(b"SAVEPOINT job")
        self._jobs, self._job_begins = True, len(self._waiting)

    def undo_job(self) -> None:
        """Undoes the last one."""
        if self._job_begins is not None:
            del self._waiting[self._job_begins :]
        else:
            self._waiting = []
            self.add(b"ROLLBACK TO job")

    def drop(self) -> None:
        """What waits is not sent."""
        self._waiting = []

    def send(self) -> None:
        """Sends what waits, and waits for all of it to be done. Raises DBAPIError."""
        if self._waiting:
            self._together()

    def ask(self, statement: bytes, values: Values) -> tuple[Any, ...] | None:
        """The first row of its answer, which is waited for. Raises DBAPIError."""
        self.add(statement, values)
        return self._together()

    def _together(self) -> tuple[Any, ...] | None:
        """The first row of the last one's answer."""
        waiting, self._waiting = self._waiting, []
        self._job_begins, self.begins = None, False
        try:
            cursor = self._sent(waiting)
            while cursor.nextset():
                pass
            return cursor.fetchone() if cursor.description else None
        except psycopg.Error as failed:
            raise _of_sqlalchemy(failed) from failed

    def _sent(self, waiting: Sequence[_Waiting]) -> psycopg.Cursor[Any]:
        texts = [text for _, _, text in waiting if text is not None]
        if len(texts) < len(waiting):
            *_, last = [self._driver.execute(each, values, prepare=values is not None) for each, values, _ in waiting]
            return last
        # In one message of the simple protocol, with the values in it. Not in a pipeline: a process that is stopped
        # before it has ended one keeps its locks, and no timeout of the server's ends that.
        return self._driver.execute(b";".join(texts), prepare=False)


def _is_large(values: Values) -> bool:
    """Whether a value is too long to be written out as a part of the text."""
    each = values.values() if isinstance(values, Mapping) else values or ()
    return any(isinstance(value, bytes | str) and len(value) > _LARGE for value in each)


def _of_sqlalchemy(failed: psycopg.Error) -> DBAPIError:
    """The driver's error as SQLAlchemy would have raised it."""
    kind = IntegrityError if isinstance(failed, psycopg.IntegrityError) else OperationalError
    return kind(None, None, failed)


def install(engine: Engine) -> None:
    """What this engine's connections execute is sent behind what waits in their batches."""

    @event.listens_for(engine, "before_cursor_execute")
    def _send(connection: Connection, *_: object) -> None:
        batch = connection.info.get(_KEY)
        if batch is not None:
            batch.send()


def give(connection: Connection) -> Batch:
    """The connection's own batch; one that has none yet gets it."""
    batch: Batch | None = connection.info.get(_KEY)
    if batch is None:
        batch = connection.info[_KEY] = _alone(connection)
    return batch


def ask(connection: Connection, statement: bytes, values: Values) -> tuple[Any, ...] | None:
    """The first row of an answer. Raises DBAPIError."""
    return (connection.info.get(_KEY) or _alone(connection)).ask(statement, values)


def add(connection: Connection, statement: bytes, values: Values) -> None:
    """Carries out a statement: in the connection's batch, or at once where it has none. Raises DBAPIError."""
    batch = connection.info.get(_KEY)
    if batch is not None:
        batch.add(statement, values)
    else:
        batch = _alone(connection)
        batch.add(statement, values)
        batch.send()


def _alone(connection: Connection) -> Batch:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return Batch(driver)
