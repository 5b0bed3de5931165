"""A room's document for everybody: what clients do with it, each done in the room's task.

A call that changes something is one change of the document, and on disk when it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from cellyard_controller import json_text
from cellyard_controller.clock import steady
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.executions import imported
from cellyard_controller.executions import queue as q
from cellyard_controller.executions.parts import part_json
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks import nbformat
from cellyard_controller.notebooks.document import NOTEBOOK_METADATA, Document, DocumentCell, Splice
from cellyard_controller.notebooks.exchange import Draft, nb_cell
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.pages import Cell, Pages
from cellyard_controller.notebooks.runner import Runner
from cellyard_controller.notebooks.widgets import Widgets
from cellyard_controller.replicas.merging import Merged
from cellyard_controller.store.requests import UNNAMED, Request

T = TypeVar("T")

_EXPORTED_AT_ONCE = 10
"""Cells whose outputs are in memory at a time."""


class Editor:
    """The document of one room. Its coroutines may be called from any task."""

    def __init__(
        self, pages: Pages, *, runner: Runner, kernel: Kernel, ledger: Ledger, widgets: Widgets, ask: Ask
    ) -> None:
        self._pages, self._runner, self._kernel, self._ledger = pages, runner, kernel, ledger
        self._widgets, self._ask = widgets, ask

    # Cells

    async def create_cell(
        self,
        request: Request,
        cell_id: CellId,
        cell_type: str,
        source: str,
        index: int | None,
        metadata: dict[str, Any],
    ) -> Cell:
        """Adds a cell."""

        def insert(document: Document) -> None:
            document.insert_cell(self._pages.new_cell(cell_id, cell_type, source, metadata), index)

        async def work() -> Cell:
            await self._edit(request, insert, size=len(source))
            return await self._cell(cell_id)

        return await self._ask(work)

    async def set_source(self, request: Request, cell_id: CellId, source: str, if_version: str) -> Cell:
        """Writes a cell's whole source."""

        async def work() -> Cell:
            size = await self._length(cell_id) + len(source)
            await self._edit(request, lambda document: document.set_source(cell_id, source, if_version), size=size)
            return await self._cell(cell_id)

        return await self._ask(work)

    async def splice_source(self, request: Request, cell_id: CellId, splice: Splice, if_version: str) -> DocumentCell:
        """Replaces a part of a cell's source, or appends to it."""

        async def work() -> DocumentCell:
            size = min(splice.delete_count, await self._length(cell_id)) + len(splice.text)
            await self._edit(request, lambda document: document.splice_source(cell_id, splice, if_version), size=size)
            return self._pages.document.cell(cell_id)

        return await self._ask(work)

    async def move_cell(self, request: Request, cell_id: CellId, after: CellId | None) -> None:
        """Puts a cell behind another one, or first."""
        await self._ask(partial(self._edit, request, lambda document: document.move_cell(cell_id, after)))

    async def set_cell_metadata(
        self, request: Request, cell_id: CellId, values: Mapping[str, Any], remove: Collection[str], max_bytes: int
    ) -> None:
        """Sets and removes keys of a cell's metadata, which may have `max_bytes` afterwards."""

        def write(document: Document) -> None:
            document.set_cell_metadata(cell_id, values, remove, max_bytes=max_bytes)

        await self._ask(partial(self._edit, request, write))

    async def set_cell_type(self, request: Request, cell_id: CellId, cell_type: str) -> None:
        """Makes it a cell of another type."""
        await self._ask(partial(self._edit, request, lambda document: document.set_cell_type(cell_id, cell_type)))

    async def clear_outputs(self, request: Request, cell_id: CellId | None) -> None:
        """One cell, or all, show nothing until they run again."""

        def clear(document: Document) -> None:
            cells = document.cell_ids() if cell_id is None else [cell_id]
            document.clear_outputs({cell: self._pages.last_by_cell.get(cell) for cell in cells})

        await self._ask(partial(self._edit, request, clear, frees=True))

    async def delete_cell(self, request: Request, cell_id: CellId) -> None:
        """Removes a cell and cancels its waiting executions."""

        async def work() -> None:
            if await self._edit(request, lambda document: document.delete_cell(cell_id), frees=True):
                self._runner.take(q.cell_deleted(self._runner.queue, cell_id))
                await self._ledger.flush()

        await self._ask(work)

    async def take_over(self, merged: Merged) -> None:
        """Makes a replica's changes the document's; what waits of cells that they remove is cancelled."""

        async def work() -> None:
            touched = [CellId(cell) for cell in merged.touched]
            await self._edit(
                UNNAMED, lambda document: document.take_over(merged.changes, touched), size=merged.operations
            )
            for removed in merged.removed:
                self._runner.take(q.cell_deleted(self._runner.queue, CellId(removed)))
            await self._ledger.flush()

        await self._ask(work)

    async def cell(self, cell_id: CellId) -> Cell:
        """One cell with the execution that it shows."""
        return await self._ask(partial(self._cell, cell_id))

    async def cells(self) -> list[Cell]:
        """All cells in document order."""

        async def work() -> list[Cell]:
            return await self._pages.join((await self._pages.current()).cells())

        return await self._ask(work)

    # The notebook

    async def set_metadata(self, request: Request, key: str, value: str) -> None:
        """Sets one value of the notebook's metadata."""
        await self._ask(partial(self._edit, request, lambda document: document.set_metadata(key, value)))

    async def metadata(self, key: str) -> str | None:
        """One value of the notebook's metadata."""

        async def work() -> str | None:
            return (await self._pages.current()).metadata(key)

        return await self._ask(work)

    async def fill(self, request: Request, draft: Draft) -> None:
        """Puts a whole notebook in. Raises InvalidRequest where there are cells already."""
        pages = self._pages

        async def work() -> None:
            last = {each.cell_id: each.execution_id for each in draft.executions}
            cells = [
                cell if cell.cell_id in last else replace(cell, cleared=pages.last_by_cell.get(cell.cell_id))
                for cell in draft.cells
            ]
            along = Change(
                rows=[partial(imported.add, notebook=pages.notebook, imported=draft.executions, blobs=pages.blobs)],
                done=[partial(pages.last_by_cell.update, last)],
            )
            await self._edit(
                request,
                lambda document: document.fill(cells, draft.metadata, draft.nbformat_minor),
                size=sum(len(cell.source) for cell in cells),
                along=along,
            )

        await self._ask(work)

    async def export(self) -> AsyncIterator[str]:
        """The notebook as nbformat's JSON, in parts. Raises InvalidRequest where its metadata are none.

        The document is that of one moment; executions are as far as they are when it is their cell's turn.
        """

        async def read() -> tuple[int, str, list[DocumentCell], dict[str, Any] | None]:
            document = await self._pages.current()
            metadata = document.metadata(NOTEBOOK_METADATA) or "{}"
            return document.nbformat_minor, metadata, document.cells(), await self._widgets.saved()

        minor, text, cells, widgets = await self._ask(read)
        metadata = _object(text)
        if widgets is not None:
            metadata["widgets"] = widgets
        yield nbformat.opening(minor, metadata)
        file_ids = nbformat.file_ids(cell.cell_id for cell in cells)
        for start in range(0, len(cells), _EXPORTED_AT_ONCE):
            joined = await self._ask(partial(self._pages.join, cells[start : start + _EXPORTED_AT_ONCE]))
            written = [nb_cell(cell, file_ids[cell.document.cell_id]) for cell in joined]
            if start:
                yield ",\n"
            for part in await asyncio.to_thread(nbformat.cells_json, written, minor):
                if isinstance(part, str):
                    yield part
                    continue
                pieces = part_json(part, self._pages.blobs)
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    yield piece
        yield nbformat.CLOSING

    # Inside, in the room's task

    async def _edit(
        self,
        request: Request,
        edit: Callable[[Document], None],
        *,
        size: int = 0,
        along: Change | None = None,
        frees: bool = False,
    ) -> bool:
        done = await self._pages.edit(request, edit, size=size, along=along, frees=frees)
        self._kernel.last_used = steady()
        return done

    async def _cell(self, cell_id: CellId) -> Cell:
        return (await self._pages.join([(await self._pages.current()).cell(cell_id)]))[0]

    async def _length(self, cell_id: CellId) -> int:
        document = await self._pages.current()
        return document.source_length(cell_id) if document.has_cell(cell_id) else 0


def _object(text: str) -> dict[str, Any]:
    try:
        value = json_text.parse(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"the notebook's {NOTEBOOK_METADATA} is no JSON object: set it to one, {{}} for example")
    return value
