"""Notebooks and their documents in the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from cellyard_controller.errors import InvalidRequest, NotebookNotFound
from cellyard_controller.ids import NotebookId, NotebookKey, NotebookRef, TenantName
from cellyard_controller.store.dialects import member
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import document_chunks, notebooks

MAX_LABELS = 32


@dataclass(frozen=True, slots=True)
class NotebookRecord:
    """One stored notebook."""

    key: NotebookKey
    ref: NotebookRef
    created_at: float
    changed_at: float
    kernel_settings: bytes | None
    kernel_end: str
    labels: dict[str, str]
    """The user's own."""


_ADD_CHUNK = Hot(insert(document_chunks))
_CHANGED = Hot(update(notebooks).where(notebooks.c.key == bindparam("this")).values(changed_at=bindparam("now")))


def find(connection: Connection, ref: NotebookRef) -> NotebookRecord | None:
    """The notebook of this id in this tenant's namespace."""
    row = connection.execute(
        select(notebooks).where(notebooks.c.tenant == ref.tenant, notebooks.c.notebook_id == ref.notebook_id)
    ).first()
    return _record(row) if row else None


def by_key(connection: Connection, key: NotebookKey) -> NotebookRecord:
    """The notebook of this key."""
    return _record(connection.execute(select(notebooks).where(notebooks.c.key == key)).one())


def add(
    connection: Connection, ref: NotebookRef, document: bytes, admit: Callable[[int], None] | None = None
) -> NotebookRecord:
    """A new notebook with this document.

    `admit` is given the number of the tenant's notebooks first, and refuses one more by raising.
    """
    if admit is not None:
        mine = select(func.count()).where(notebooks.c.tenant == ref.tenant)
        admit(connection.execute(mine).scalar_one())
    now = time.time()
    added = connection.execute(
        insert(notebooks).values(
            tenant=ref.tenant, notebook_id=ref.notebook_id, created_at=now, changed_at=now, kernel_end=""
        )
    )
    assert added.inserted_primary_key is not None
    key = NotebookKey(added.inserted_primary_key[0])
    add_chunk(connection, key, 0, document)
    return NotebookRecord(key, ref, now, now, None, "", {})


def listed(
    connection: Connection, tenant: TenantName, limit: int, after: str, labels: Mapping[str, str]
) -> list[NotebookRecord]:
    """A tenant's notebooks by id: those that have these labels, where an empty value stands for any."""
    query = select(notebooks).where(notebooks.c.tenant == tenant, notebooks.c.notebook_id > after)
    for key, value in labels.items():
        has = member(notebooks.c.labels, key)  # no key has a quote: they are checked
        query = query.where(has == value if value else has.is_not(None))
    rows = connection.execute(query.order_by(notebooks.c.notebook_id).limit(limit))
    return [_record(row) for row in rows]


def set_labels(
    connection: Connection, key: NotebookKey, labels: Mapping[str, str], remove: Collection[str]
) -> dict[str, str]:
    """Sets and removes labels; returns them all. Raises InvalidRequest, NotebookNotFound."""
    stored = connection.execute(select(notebooks.c.labels).where(notebooks.c.key == key)).scalar()
    if stored is None:
        raise NotebookNotFound("the notebook was deleted meanwhile")
    result = {name: value for name, value in json.loads(stored).items() if name not in remove} | dict(labels)
    if len(result) > MAX_LABELS:
        raise InvalidRequest(f"a notebook has at most {MAX_LABELS} labels, not {len(result)}")
    change(connection, key, labels=json.dumps(result))
    return result


def chunks(connection: Connection, key: NotebookKey) -> list[bytes]:
    """The document, in the order in which automerge loads it."""
    rows = connection.execute(
        select(document_chunks.c.chunk).where(document_chunks.c.notebook_key == key).order_by(document_chunks.c.number)
    )
    return list(rows.scalars())


def readable_chunks(connection: Connection, key: NotebookKey) -> list[bytes]:
    """The same as far as it can be read, where the database is damaged."""
    found: list[bytes] = []
    rows = select(document_chunks.c.chunk).where(document_chunks.c.notebook_key == key)
    try:
        for chunk in connection.execute(rows.order_by(document_chunks.c.number)).scalars():
            found.append(chunk)  # noqa: PERF402 - what came before a failure counts
    except DBAPIError:
        pass  # the caller knows why: it asked for all of it first
    return found


def next_chunk(connection: Connection, key: NotebookKey) -> int:
    """The number that the next chunk bears."""
    last = select(func.max(document_chunks.c.number)).where(document_chunks.c.notebook_key == key)
    return (connection.execute(last).scalar_one_or_none() or 0) + 1


def add_chunk(connection: Connection, key: NotebookKey, number: int, chunk: bytes) -> None:
    """Appends a change to the document."""
    _ADD_CHUNK(connection, {"notebook_key": key, "number": number, "chunk": chunk})
    if number:
        _CHANGED(connection, {"this": key, "now": time.time()})


def replace_chunks(connection: Connection, key: NotebookKey, snapshot: bytes) -> None:
    """Folds all chunks into one."""
    connection.execute(delete(document_chunks).where(document_chunks.c.notebook_key == key))
    add_chunk(connection, key, 0, snapshot)


def change(connection: Connection, key: NotebookKey, **values: Any) -> None:
    """Stores what has become of a notebook."""
    connection.execute(update(notebooks).where(notebooks.c.key == key).values(**values))


def remove(connection: Connection, key: NotebookKey) -> None:
    """Removes a notebook and all that hangs on it."""
    connection.execute(delete(notebooks).where(notebooks.c.key == key))


def _record(row: Any) -> NotebookRecord:
    return NotebookRecord(
        key=NotebookKey(row.key),
        ref=NotebookRef(TenantName(row.tenant), NotebookId(row.notebook_id)),
        created_at=row.created_at,
        changed_at=row.changed_at,
        kernel_settings=row.kernel_settings,
        kernel_end=row.kernel_end,
        labels=json.loads(row.labels),
    )
