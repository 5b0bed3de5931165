"""Large parts of a notebook's outputs, which lie beside the store: read by whoever may read the notebook."""

from __future__ import annotations

from functools import partial
from io import FileIO

import structlog
from sqlalchemy import Connection

from cellyard_controller.errors import ExecutionNotFound, InvalidRequest, NotebookNotFound, Unavailable
from cellyard_controller.executions import blob_uses
from cellyard_controller.ids import NotebookRef
from cellyard_controller.notebooks import records
from cellyard_controller.store import Store
from cellyard_controller.store.blobs import is_digest
from cellyard_controller.store.opened import opened

log = structlog.get_logger()


async def opened_part(store: Store, ref: NotebookRef, digest: str) -> FileIO:
    """A part, to be read and closed.

    Raises NotebookNotFound, InvalidRequest for what is no digest, ExecutionNotFound where no execution of this notebook
    refers to it (any more), whoever else does.
    """
    if not is_digest(digest):
        raise InvalidRequest("a digest is sha256: and 64 hexadecimal digits", digest=digest[:80])

    def find(connection: Connection) -> bool:
        record = records.find(connection, ref)
        if record is None:
            raise NotebookNotFound(f"notebook {ref.notebook_id!r} not found", notebook_id=ref.notebook_id)
        return blob_uses.in_use(connection, record.key, digest)

    gone = ExecutionNotFound(f"no execution of notebook {ref.notebook_id!r} shows {digest} (any more)", digest=digest)
    if not await store.read(find):
        raise gone
    try:
        return await opened(partial(store.blobs.open_file, digest))
    except FileNotFoundError:
        if await store.read(find):  # else it was removed just now
            log.error("a large part of an output is missing on disk", notebook_id=ref.notebook_id, digest=digest)
        raise gone from None
    except OSError as failed:
        raise Unavailable(f"{digest} cannot be read: {failed.strerror}") from failed
