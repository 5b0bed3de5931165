"""Which executions refer to which files, and the end of files that nothing refers to, no artifact either."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

from sqlalchemy import Connection, delete, select

from cellyard_controller.ids import ExecutionId, NotebookKey
from cellyard_controller.store import Store, StoreFailed, sweeping
from cellyard_controller.store.blobs import Blobs
from cellyard_controller.store.dialects import insert
from cellyard_controller.store.schema import artifacts, blob_uses

_REFERRING = (blob_uses.c.digest, artifacts.c.digest)
_AT_A_TIME = 200
"""Files that one step removes at most."""


def add(connection: Connection, notebook: NotebookKey, execution_id: ExecutionId, digests: Collection[str]) -> None:
    """Notes what an execution refers to, besides what it did before."""
    if digests:
        sweeping.put_off(connection)
        rows = [
            {"notebook_key": notebook, "execution_id": execution_id, "digest": digest} for digest in sorted(digests)
        ]
        connection.execute(insert(connection, blob_uses).on_conflict_do_nothing(), rows)


def keep_only(connection: Connection, execution_id: ExecutionId, digests: Collection[str]) -> None:
    """Notes that an execution refers to nothing else any more."""
    mine = select(blob_uses.c.digest).where(blob_uses.c.execution_id == execution_id)
    gone = set(connection.execute(mine).scalars()) - set(digests)
    for digest in gone:
        connection.execute(
            delete(blob_uses).where(blob_uses.c.execution_id == execution_id, blob_uses.c.digest == digest)
        )


def in_use(connection: Connection, notebook: NotebookKey, digest: str) -> bool:
    """Whether an execution of this notebook refers to it."""
    found = select(blob_uses.c.digest).where(blob_uses.c.digest == digest, blob_uses.c.notebook_key == notebook)
    return connection.execute(found.limit(1)).first() is not None


async def collect(store: Store) -> int:
    """Removes the files that nothing refers to; returns how many."""
    removed = 0
    for prefix in await asyncio.to_thread(store.blobs.prefixes):
        unused = sorted(await store.read(partial(_unused, blobs=store.blobs, prefix=prefix)))
        for start in range(0, len(unused), _AT_A_TIME):
            some = unused[start : start + _AT_A_TIME]
            # What has come into use since is seen there, because nothing else is in that transaction.
            removed += await store.write(partial(_remove, blobs=store.blobs, digests=some), alone=True)
    return removed


def _unused(connection: Connection, blobs: Blobs, prefix: str) -> set[str]:
    unused = set(blobs.stored(connection, prefix))
    first = f"sha256:{prefix}"
    for digest in _REFERRING:
        known = select(digest).distinct().where(digest >= first, digest < f"{first}g")  # "g": past all digits
        unused.difference_update(connection.execute(known).scalars())
    return unused


def _remove(connection: Connection, blobs: Blobs, digests: Sequence[str]) -> int:
    if not sweeping.may_begin(connection):  # another controller's transaction may come to refer to one: the next round
        return 0
    known: set[str] = set()
    for digest in _REFERRING:
        known.update(connection.execute(select(digest).where(digest.in_(digests))).scalars())
    unused = [digest for digest in digests if digest not in known]
    try:
        with blobs.removing() as may:
            if not may:  # a copy is being made that may refer to them: the next round removes them
                return 0
            blobs.remove(connection, unused)
    except OSError as failed:
        raise StoreFailed(f"a file that nothing refers to cannot be removed: {failed}") from failed
    return len(unused)
