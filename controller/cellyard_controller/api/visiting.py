"""What the services for files and commands have in common: the way into a notebook's sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cellyard_controller.errors import NoKernel, NotebookNotFound
from cellyard_controller.ids import NotebookRef
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.flows import Flow, What


@asynccontextmanager
async def visit(rooms: Rooms, ref: NotebookRef, what: What) -> AsyncIterator[Flow]:
    """Something is done in the notebook's sandbox, as long as the block runs. Raises what Visits.begin does.

    A notebook that is not there has no kernel either, and nothing more is said of it.
    """
    try:
        async with rooms.use(ref, create=False) as room, room.visits.begin(what) as flow:
            yield flow
    except NotebookNotFound:
        raise NoKernel(f"no kernel runs for notebook {ref.notebook_id!r}, and so it has no files") from None
