"""Copies a store to another place, from SQLite to PostgreSQL or back: whole and verified, or not at all. Blocks.

Nobody may have either of them open: who calls this holds the lock of a data folder; of a PostgreSQL database it is held
here. The copy is one transaction. Each table is read again on the other side, before that is committed, and must have
as many rows of the same content; each large part is hashed as it arrives.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Select, Table, delete, func, insert, select
from sqlalchemy.exc import DBAPIError

from cellyard_controller.clock import steady
from cellyard_controller.store import places, preparing, schema, sqlite
from cellyard_controller.store.blob_files import BlobFiles
from cellyard_controller.store.blob_rows import BlobRows
from cellyard_controller.store.blobs import Blobs
from cellyard_controller.store.errors import StoreFailed, cause
from cellyard_controller.store.locks import IN_USE, OURS
from cellyard_controller.store.places import Place, Postgres, SqliteFile

Progress = Callable[[str, int], None]
"""What is copied (a table, or "files"), and how much of it is."""

_NOT_COPIED = (schema.meta, schema.nodes, schema.writers, schema.blobs, schema.blob_pieces)
_KEPT_FACTS = ("controller_id", "restored")
_COUNTED = ((schema.notebooks.c.key, "notebooks"), (schema.executions.c.ordinal, "executions"))
_ENDED, _LOST = "ended", "node_lost"
_ROWS = 20
"""That are in memory at a time; one may have some megabytes."""
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Moved:
    """What was copied."""

    rows: int
    blobs: int
    blob_bytes: int
    missing: int
    """Large parts that something refers to and that are gone at the source."""


def move(source: Place, target: Place, progress: Progress = lambda *_: None) -> Moved:
    """Copies all that a store has. Raises StoreFailed, and leaves the target as it was."""
    try:
        with ExitStack() as stack:
            spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellyard-")))
            reading = stack.enter_context(_source(source))
            writing = stack.enter_context(_target(target))
            rows = 0
            for table in _tables():
                rows += _copy(table, reading, writing, progress)
            _set_facts(reading, writing)
            blobs = _blobs(target, writing, spool)
            arrived: list[str] = []
            try:
                moved = _copy_blobs(_blobs(source, reading, spool), blobs, reading, writing, arrived, progress)
            except BaseException:
                blobs.remove(writing, arrived)
                raise
            return Moved(rows, *moved)
    except (DBAPIError, OSError) as failed:
        raise StoreFailed(f"the store was not copied, and nothing was changed: {cause(failed)}") from failed


def _tables() -> list[Table]:
    """Those that are copied, each behind the ones that it refers to."""
    return [table for table in schema.metadata.sorted_tables if table not in _NOT_COPIED]


@contextmanager
def _source(place: Place) -> Iterator[Connection]:
    """A connection that sees one moment."""
    if isinstance(place, SqliteFile):
        if not place.path.is_file():
            raise StoreFailed(f"there is no {place.path.name} in {place.path.parent}: name a controller's data folder")
        engine = sqlite.engine(place.path, read_only=True)
    else:
        engine = places.engine(place, purpose="migrate", timeout_s=0, read_only=True)
    with _disposed(engine), _alone(place), engine.connect() as connection:
        if not connection.dialect.has_table(connection, "meta"):
            raise StoreFailed(f"{place} has no store in it")
        stored = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == "schema_version")).scalar()
        if stored != str(schema.SCHEMA_VERSION):
            raise StoreFailed(
                f"{place} has schema {stored}, and this version copies {schema.SCHEMA_VERSION}: start a controller of "
                "this version on it first"
            )
        yield connection


@contextmanager
def _target(place: Place) -> Iterator[Connection]:
    """A connection in a transaction, which is committed at the block's end, on tables without rows."""
    if isinstance(place, Postgres):
        from cellyard_controller.store.postgresql import check, check_tables

        engine = places.engine(place, purpose="migrate", timeout_s=0)
        engine = engine.execution_options(isolation_level="READ COMMITTED")
        with _disposed(engine), _alone(place), engine.begin() as connection:
            check(connection)
            check_tables(connection)
            _prepare(connection, place)
            yield connection
        return
    if place.path.exists():
        raise StoreFailed(f"there is a {place.path.name} in {place.path.parent} already: name a new data folder")
    place.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = place.path.with_name(f"{place.path.name}.unfinished")
    try:
        engine = sqlite.engine(unfinished)
        with _disposed(engine), engine.begin() as connection:
            _prepare(connection, place)
            yield connection
        unfinished.rename(place.path)
    finally:
        for left in place.path.parent.glob(f"{unfinished.name}*"):
            left.unlink()


@contextmanager
def _disposed(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """No controller has this database open, and none can."""
    if isinstance(place, SqliteFile):
        yield
        return
    engine = places.engine(place, purpose="migrate lock", timeout_s=0)
    with _disposed(engine), engine.connect() as connection:
        if not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({OURS}, {IN_USE})").scalar_one():
            raise StoreFailed(f"controllers have {place} open: stop them first")
        yield


def _prepare(connection: Connection, place: Place) -> None:
    preparing.prepare(connection)
    for table in _tables():
        if connection.execute(select(func.count()).select_from(table)).scalar_one():
            raise StoreFailed(f"{place} is not empty, there is something in its table {table.name}: name a new one")


def _copy(table: Table, reading: Connection, writing: Connection, progress: Progress) -> int:
    """Copies a table, and compares what has arrived."""
    sent = _Sum()
    found = reading.execute(_by_and_by(table))
    for some in found.partitions():
        rows = [_elsewhere(table, dict(row._mapping)) for row in some]
        for row in rows:
            sent.add(row)
        writing.execute(insert(table), rows)
        progress(table.name, sent.count)
    arrived = _Sum()
    for row_there in writing.execute(_by_and_by(table)):
        arrived.add(dict(row_there._mapping))
    if (sent.count, sent.digest) != (arrived.count, arrived.digest):
        raise StoreFailed(f"what arrived in {table.name} is not what was sent ({arrived.count} of {sent.count} rows)")
    return sent.count


def _elsewhere(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is in another place: who has a notebook, and what it ran in, does not come along."""
    if table is schema.notebooks:
        return {**row, "owner": None, "owner_fence": 0}
    if table is schema.sandboxes:
        left = {} if row["state"] == _ENDED else {"state": _ENDED, "end_reason": _LOST, "ended_at": steady()}
        return {**row, "node": "", **left}
    return row


def _by_and_by(table: Table) -> Select[Any]:
    return select(table).execution_options(yield_per=_ROWS)


class _Sum:
    """Of rows in any order: two databases need not sort alike."""

    def __init__(self) -> None:
        self.count, self.digest = 0, 0

    def add(self, row: dict[str, Any]) -> None:
        """One more row, with the names of its columns."""
        self.count += 1
        said = repr(sorted(row.items())).encode(errors="surrogatepass")
        self.digest = (self.digest + int.from_bytes(hashlib.sha256(said).digest(), "big")) % (1 << 256)


def _set_facts(reading: Connection, writing: Connection) -> None:
    """Who the controller is; and where the numbers go on that the database counts by itself."""
    facts = reading.execute(select(schema.meta).where(schema.meta.c.key.in_(_KEPT_FACTS))).all()
    writing.execute(delete(schema.meta).where(schema.meta.c.key.in_(_KEPT_FACTS)))
    writing.execute(insert(schema.meta), [dict(row._mapping) for row in facts])
    if writing.dialect.name == "postgresql":
        for column, table in _COUNTED:
            last = writing.execute(select(func.max(column))).scalar()
            sequence = func.pg_get_serial_sequence(table, column.name)
            writing.execute(select(func.setval(sequence, last or 1, last is not None)))


def _blobs(place: Place, connection: Connection, spool: Path) -> Blobs:
    if isinstance(place, Postgres) and place.blobs is None:

        @contextmanager
        def here() -> Iterator[Connection]:
            yield connection

        return BlobRows(here, spool)
    folder = place.blobs
    assert folder is not None
    return BlobFiles(folder, shared=isinstance(place, Postgres))


def _copy_blobs(
    source: Blobs, target: Blobs, reading: Connection, writing: Connection, arrived: list[str], progress: Progress
) -> tuple[int, int, int]:
    """Copies what is referred to; how many, of how many bytes, and how many were gone. `arrived`: those new there."""
    target.open()
    there = {digest for prefix in target.prefixes() for digest in target.stored(writing, prefix)}
    digests = {
        digest
        for column in (schema.blob_uses.c.digest, schema.artifacts.c.digest)
        for digest in reading.execute(select(column).distinct()).scalars()
    }
    size = missing = 0
    for number, digest in enumerate(sorted(digests), 1):
        progress("files", number)
        if digest in there:  # the same folder, or one that had it for another reason
            size += target.total(writing, [digest])
            continue
        try:
            file = source.open_file(digest)
        except FileNotFoundError:
            missing += 1
            continue
        incoming = target.incoming()
        try:
            with file:
                while content := file.read(_PIECE):
                    incoming.write(content)
            if incoming.finish() != digest:
                missing += 1
                continue
            arrived.append(digest)
            target.take(writing, incoming, digest)
            size += incoming.size
        finally:
            incoming.close()
    return len(digests) - missing, size, missing
