"""A database of a PostgreSQL server, which several controllers may share.

The connection that writes may be lost at any moment. Before its COMMIT was sent, nothing is stored. When it gets no
answer, nobody can say: so each commit writes its number into the writer's own row of `writers`, and once there is a
connection again that row tells. The old connection must be gone by then, or its COMMIT could still arrive behind the
question: each connection that writes holds a lock of its store, and the next one ends whoever has it and takes it over.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from cellyard_controller import clock
from cellyard_controller.store import batches, places, preparing, schema
from cellyard_controller.store.batches import Batch
from cellyard_controller.store.errors import StoreFailed, cause
from cellyard_controller.store.locks import IN_USE, OURS, PREPARING
from cellyard_controller.store.watch import Watch

_OLDEST = 13
_READERS = 2
_READ_S = 30.0
_PREPARE_S = 120.0
_SLACK_S = 5.0
_AGAIN_S = 0.2
_FORGOTTEN_S = 7 * 86400.0
_AWAY = ("08", "57P")
"""Beginnings of the codes that say that the connection broke, or that the server goes or comes."""
_IN_THE_WAY = ("40001", "40P01")  # serialization_failure, deadlock_detected

Driver = psycopg.Connection[Any]


class Postgresql:
    """Reads and writes one database. What the server confirmed is on its disk."""

    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, place: places.Postgres, in_doubt: Callable[[str], None] = lambda _: None) -> None:
        """`in_doubt`: is told, on the writer's thread, why it is not known what became of a commit."""
        self._place, self._in_doubt = place, in_doubt
        self._limit = 2 * place.timeout_s + _SLACK_S
        self._write_engine = places.engine(place, purpose="writer")
        batches.install(self._write_engine)
        self._read_engine = places.engine(
            place, purpose="reader", pool_size=_READERS, timeout_s=_READ_S, read_only=True
        )
        self._watch = Watch()
        self._closing = threading.Event()
        self._writer: Connection | None = None
        self._name = uuid.uuid4().hex
        self._lock = int(self._name[:15], 16)
        self._number = 0
        self._committing = False
        self._was_stale = False

    def prepare(self, *, used: bool) -> dict[str, str]:
        """Makes or migrates the tables; returns what stands in `meta`. Raises StoreFailed."""
        engine = places.engine(self._place, purpose="setup", timeout_s=_PREPARE_S)
        try:
            with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
                run = connection.exec_driver_sql
                check(connection)
                run(f"SELECT pg_advisory_xact_lock({OURS}, {PREPARING})")  # controllers may begin together
                check_tables(connection)
                stored = preparing.prepare(connection)
                run(f"DELETE FROM writers WHERE at < extract(epoch FROM clock_timestamp()) - {_FORGOTTEN_S}")
                clock.agree(float(run("SELECT extract(epoch FROM clock_timestamp())").scalar_one()))
                return stored
        except (DBAPIError, psycopg.Error) as failed:
            raise StoreFailed(
                f"the database {self._place} cannot be opened: {cause(failed)}. Check store.url and "
                "store.password_file, and that its user may create tables there."
            ) from failed
        except StoreFailed as refused:
            raise StoreFailed(f"the database {self._place} cannot be used: {refused}") from refused

    @contextmanager
    def transaction(self) -> Iterator[_Transaction]:
        """A transaction of the driver, committed at the block's end, whatever becomes of the connection meanwhile."""
        used, self._committing, self._was_stale = self._writer is not None, False, False
        connection = self._writer = self._writer or self._connect()
        driver, batch = _driver(connection), batches.give(connection)
        batch.begin()
        try:
            with self._watch.within(driver, self._limit):
                yield _Transaction(connection, batch)
                self._commit(driver, batch)
        except BaseException:
            batch.drop()
            self._was_stale = used and driver.closed and not self._committing
            self._undo(driver)
            raise
        finally:
            if self._writer is connection:  # SQLAlchemy has a transaction too, of which the driver knows nothing
                connection.rollback()

    def goes_on(self) -> None:
        """A transaction that is long does something still: it is not taken for one that gets no answer."""
        if self._writer is not None:
            self._watch.extend(_driver(self._writer), self._limit)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one moment of the database."""
        with self._read_engine.connect() as connection, self._watch.within(_driver(connection), _READ_S + _SLACK_S):
            yield connection

    def was_in_the_way(self, failed: BaseException) -> bool:
        """Whether another controller's transaction was, or the connection had gone away since the last one."""
        return _code(failed) in _IN_THE_WAY or self._was_stale

    def was_lost(self, failed: BaseException) -> bool:
        """Whether the connection went away, as all do when the server is started again, or none can be had."""
        if isinstance(failed, DBAPIError):
            return failed.connection_invalidated or _is_away(failed.orig)
        return _is_away(failed)

    def size(self) -> int:
        """Bytes of the database. Raises StoreFailed."""
        try:
            with self.reading() as connection:
                return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
        except DBAPIError as failed:
            raise StoreFailed(f"the database cannot be measured: {cause(failed)}") from failed

    def stop_waiting(self) -> None:
        """Whoever waits for the server to come back gives up."""
        self._closing.set()

    def close(self) -> None:
        """Ends the connections."""
        self._drop()
        self._write_engine.dispose()
        self._read_engine.dispose()
        self._watch.close()

    def _connect(self) -> Connection:
        """A new connection for the writer, when no older one can do anything any more."""
        connection = self._write_engine.connect()
        driver = _driver(connection)
        try:
            with self._watch.within(driver, self._limit):
                driver.execute(_END_THE_LAST, {"high": self._lock >> 32, "low": self._lock & 0xFFFFFFFF})
                driver.execute("SELECT pg_advisory_lock(%s::bigint)", [self._lock])
                check(connection)
                free = driver.execute(f"SELECT pg_try_advisory_lock_shared({OURS}, {IN_USE})".encode()).fetchone()
                if free != (True,):
                    raise StoreFailed("`cellyard store migrate` has this database for itself: wait until it is done")
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _commit(self, driver: Driver, batch: Batch) -> None:
        if batch.begins:
            batch.send()  # by itself: a connection that had gone away is not one whose commit is in doubt
        self._number += 1
        batch.add(_NOTE, [self._name, self._number])
        batch.add(b"COMMIT")
        self._committing = True
        try:
            batch.send()
        except DBAPIError as failed:
            if not driver.closed:  # it was answered: no
                raise
            self._drop()
            if not self._was_stored(failed):
                raise

    def _was_stored(self, failed: DBAPIError) -> bool:
        """Whether the last commit is in the database; asked until there is an answer. Raises StoreFailed."""
        why: BaseException = failed
        while True:
            self._in_doubt(f"the database went away, and it is not known yet what it has stored: {cause(why)}")
            try:
                self._writer = self._connect()
                row = _driver(self._writer).execute("SELECT number FROM writers WHERE writer = %s", [self._name])
                return (row.fetchone() or (0,))[0] >= self._number
            except (DBAPIError, psycopg.Error, StoreFailed) as away:
                why = away
                self._drop()
            if self._closing.wait(_AGAIN_S):
                raise StoreFailed("the store was closed before the database said what it has stored") from failed

    def _undo(self, driver: Driver) -> None:
        try:
            if not driver.closed and driver.info.transaction_status is not TransactionStatus.IDLE:
                with self._watch.within(driver, self._limit):
                    _say(driver, "ROLLBACK")
        except psycopg.Error:
            pass  # seen below
        if driver.closed and self._writer is not None and _is_on(self._writer, driver):
            self._drop()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.invalidate()
            self._writer.close()
            self._writer = None


class _Transaction:
    def __init__(self, connection: Connection, batch: Batch) -> None:
        self.connection = connection
        self._batch = batch

    def begin_job(self) -> None:
        """The next job; the one before it has become a part of the transaction."""
        self._batch.begin_job()

    def end_job(self) -> None:
        """Its statements have been carried out. Raises DBAPIError."""
        self._batch.send()

    def undo_job(self) -> None:
        """Undoes the last one."""
        self._batch.undo_job()


_NOTE = b"""
INSERT INTO writers VALUES (%s, %s, extract(epoch FROM clock_timestamp()))
ON CONFLICT (writer) DO UPDATE SET number = excluded.number, at = excluded.at
"""
_END_THE_LAST = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid <> pg_backend_pid()
AND classid::bigint = %(high)s AND objid::bigint = %(low)s
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def _say(driver: Driver, statements: str) -> None:
    """Statements without values; several may stand in one message."""
    driver.execute(statements.encode(), prepare=False)


def _driver(connection: Connection) -> Driver:
    return cast(Driver, connection.connection.driver_connection)


def _is_on(connection: Connection, driver: Driver) -> bool:
    return connection.invalidated or connection.connection.driver_connection is driver


def _is_away(failed: BaseException | None) -> bool:
    state = failed.sqlstate if isinstance(failed, psycopg.OperationalError) else "none of the driver's"
    return state is None or state.startswith(_AWAY)


def _code(failed: BaseException) -> str:
    error = failed.orig if isinstance(failed, DBAPIError) else failed
    return getattr(error, "sqlstate", None) or ""


def check(connection: Connection) -> None:
    """Raises StoreFailed where the server is not one that a store can be on."""
    version, encoding, standby, read_only, where = connection.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), "
        "pg_is_in_recovery(), current_setting('default_transaction_read_only'), current_schema()"
    ).one()
    if version < _OLDEST * 10000:
        raise StoreFailed(f"its server is PostgreSQL {version // 10000}: {_OLDEST} or later is needed")
    if encoding != "UTF8":
        raise StoreFailed(f"it is encoded in {encoding}: make one with ENCODING 'UTF8'")
    if standby:
        raise StoreFailed("its server is a standby and takes no writes: name the primary in store.url")
    if read_only == "on":
        raise StoreFailed("it is read-only: set default_transaction_read_only to off")
    if where is None:
        raise StoreFailed("there is no schema to put tables in: its user's search_path names none that is there")


def check_tables(connection: Connection) -> None:
    """Raises StoreFailed where the tables are somebody else's."""
    there = set(inspect(connection).get_table_names())
    ours = {table.name for table in (schema.meta, schema.notebooks, schema.executions)}
    if there and not ours <= there:
        some = ", ".join(sorted(there)[:3])
        raise StoreFailed(f"there are other tables in it ({some}), and none of Cellyard's: give it one of its own")
    if there and {column["name"] for column in inspect(connection).get_columns("meta")} != {"key", "value"}:
        raise StoreFailed("its table `meta` is not Cellyard's: give it a database of its own")
