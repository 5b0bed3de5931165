"""What stands in the store of a notebook that is being opened, in one look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cellyard_controller.executions import records as execution_records
from cellyard_controller.executions.model import Execution
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey, NotebookRef
from cellyard_controller.notebooks import records
from cellyard_controller.notebooks.records import NotebookRecord
from cellyard_controller.store import StoreDamaged
from cellyard_controller.store.errors import is_damage, read_failure


@dataclass(frozen=True, slots=True)
class Stored:
    """A notebook as it is stored."""

    record: NotebookRecord
    chunks: list[bytes] | StoreDamaged
    """The document, or why it cannot be read."""
    next_chunk: int
    """The number that the next chunk bears."""
    last_by_cell: dict[CellId, ExecutionId]
    """Each cell's last execution that was started."""
    unfinished: list[Execution]
    """In the order of their acceptance."""


def find(connection: Connection, ref: NotebookRef) -> Stored | None:
    """The notebook of this id in this tenant's namespace."""
    record = records.find(connection, ref)
    return None if record is None else _stored(connection, record)


def by_key(connection: Connection, key: NotebookKey) -> Stored:
    """The notebook of this key."""
    return _stored(connection, records.by_key(connection, key))


def find_or_add(
    connection: Connection, ref: NotebookRef, document: bytes, admit: Callable[[int], None] | None = None
) -> Stored:
    """The notebook of this id; where there is none, one with this document. `admit`: see `records.add`."""
    found = find(connection, ref)
    if found is not None:
        return found
    return Stored(records.add(connection, ref, document, admit), [document], 1, {}, [])


def _stored(connection: Connection, record: NotebookRecord) -> Stored:
    chunks: list[bytes] | StoreDamaged
    try:
        chunks = records.chunks(connection, record.key)
    except DBAPIError as failed:
        if not is_damage(failed):
            raise
        chunks = StoreDamaged(read_failure(failed))
    return Stored(
        record,
        chunks,
        records.next_chunk(connection, record.key),
        execution_records.last_by_cell(connection, record.key),
        execution_records.unfinished(connection, record.key),
    )
