"""Statements of the hot path: compiled once, and given to the database's driver as they are.

SQLAlchemy's own way costs two to three times as much for a statement that returns nothing: measured 0.06 against
0.02 ms of a commit's thread. Values must be what the driver takes: str, int, float, bytes, bool, None.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Update
from sqlalchemy import Insert as AnyInsert
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError, OperationalError

from cellyard_controller.store.dialects import Insert, Inserting, inserting


class Hot:
    """One statement, and the names of its values."""

    def __init__(
        self, statement: AnyInsert | Update | Callable[[Inserting], Insert], names: Sequence[str] | None = None
    ) -> None:
        """`statement`: made of the database's own way to insert, where it says what becomes of a conflict.

        `names`: the columns that an insert is given.
        """
        self._statement, self._given = statement, names
        self._sqlite = self._compiled(sqlite.dialect(), "sqlite")
        self._names = tuple(self._sqlite.positiontup or ())
        self._sql = str(self._sqlite)
        self._defaults = {column.key: getattr(column.default, "arg", None) for column in self._sqlite.insert_prefetch}
        self._postgresql = b""

    def __call__(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Runs it in the connection's transaction: at the latest before anything else that is executed on it, or at the
        job's end. Raises SQLAlchemy's errors, or leaves that to the job's end."""
        driver = connection.connection.driver_connection
        given = {**self._defaults, **values} if self._defaults else values
        if isinstance(driver, sqlite3.Connection):
            try:
                driver.execute(self._sql, [given[name] for name in self._names])
            except sqlite3.IntegrityError as conflict:
                raise IntegrityError(self._sql, None, conflict) from conflict
            except sqlite3.Error as failed:
                raise OperationalError(self._sql, None, failed) from failed
        else:
            self._on_postgresql(connection, given)

    def _on_postgresql(self, connection: Connection, given: Mapping[str, Any]) -> None:
        from cellyard_controller.store import batches  # its driver is from an extra

        if not self._postgresql:
            compiled = self._compiled(psycopg.dialect(), "postgresql")  # type: ignore[no-untyped-call]
            self._postgresql = str(compiled).encode()
        batches.add(connection, self._postgresql, given)

    def _compiled(self, dialect: Dialect, name: str) -> Any:
        statement: Any = self._statement
        if not isinstance(statement, AnyInsert | Update):
            statement = statement(inserting(name))
        if isinstance(statement, AnyInsert):
            statement = statement.inline()  # nobody asks for the keys of its rows
        return statement.compile(dialect=dialect, column_keys=self._given)
