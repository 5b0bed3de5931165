"""From a notebook as it is stored to its document, or to why there is none to be had."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import structlog

from cellyard_controller.errors import Unavailable
from cellyard_controller.notebooks import records, set_aside
from cellyard_controller.notebooks.document import Document, DocumentDamaged
from cellyard_controller.notebooks.document_versions import TooNew
from cellyard_controller.notebooks.opening import Stored
from cellyard_controller.store import Store, StoreDamaged

_SMALL = 4096
"""Bytes of a document that is loaded faster than another thread wakes up."""

log = structlog.get_logger()


async def document(stored: Stored, store: Store, data: Path) -> Document | Unavailable:
    """The notebook's document, or why there is none to be had: one that is damaged is set aside."""
    record, notebook_id = stored.record, stored.record.ref.notebook_id
    chunks: list[bytes] = []
    try:
        if isinstance(stored.chunks, StoreDamaged):
            raise stored.chunks
        chunks = stored.chunks
        if sum(map(len, chunks)) <= _SMALL:
            return Document.load(chunks)
        return await asyncio.to_thread(Document.load, chunks)
    except TooNew as new:
        return Unavailable(f"notebook {notebook_id!r} needs a later release: {new}", notebook_id=notebook_id)
    except DocumentDamaged as damaged:
        why, then = str(damaged), "deleting the notebook removes all of it"
    except StoreDamaged as damaged:
        why, then = str(damaged), "the database itself is to be repaired, while the controller is stopped"
        chunks = await store.read(partial(records.readable_chunks, key=record.key))
    try:
        keep = partial(set_aside.keep, data, record.key, notebook_id, chunks)
        kept = str(await asyncio.to_thread(keep))
    except OSError as failed:
        kept = f"the database alone ({failed.strerror})"
    log.error("a document is damaged", notebook_id=notebook_id, tenant=record.ref.tenant, why=why, set_aside=kept)
    return Unavailable(
        f"the document of notebook {notebook_id!r} is damaged: {why}. What is stored of it is kept in {kept}; "
        f"its executions can be read; {then}",
        notebook_id=notebook_id,
        set_aside=kept,
    )
