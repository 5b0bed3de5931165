"""A room's document: edited, stored change by change, and read joined with executions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError

from cellyard_controller.errors import InvalidRequest, Refused, Unavailable
from cellyard_controller.executions import records as execution_records
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.model import Execution
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey
from cellyard_controller.notebooks import records
from cellyard_controller.notebooks.document import Document, DocumentCell, DocumentDamaged
from cellyard_controller.notebooks.document_touched import Touched
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.watchers import Watchers
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.store.errors import refusal
from cellyard_controller.store.requests import Request

_LARGE_EDIT = 20_000
"""Characters above which an edit goes to a thread, so that other notebooks do not wait for it."""
_FOLD_AFTER = 500
"""Stored changes after which the document is written whole."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the document, joined with the execution that it shows: its last one, unless that was cleared."""

    document: DocumentCell
    execution: Execution | None


class Pages:
    """The document of one room. Used by the room's task alone."""

    def __init__(
        self,
        notebook: NotebookKey,
        document: Document | Unavailable,
        chunk_count: int,
        last_by_cell: dict[CellId, ExecutionId],
        *,
        store: Store,
        journal: Journal,
        ledger: Ledger,
        watchers: Watchers,
        keep: Callable[[int], Awaitable[None]],
    ) -> None:
        """`document`: it, or why there is none; then all that needs it is refused so.

        `keep` refuses, by raising, that so many bytes more are kept.
        """
        self.on_stored: set[Callable[[], None]] = set()
        """Called when a change of the document is on disk."""
        self._document = document
        self._stored = [] if isinstance(document, Unavailable) else document.heads
        self._unknown = False
        """Whether the document in memory may be another one than what is stored."""
        self.last_by_cell = last_by_cell
        """Each cell's last execution that was started."""
        self.notebook, self._chunks = notebook, chunk_count
        self.blobs = store.blobs
        """Large parts of outputs."""
        self.keep = keep
        self._store, self._journal, self._ledger, self._watchers = store, journal, ledger, watchers

    @property
    def document(self) -> Document:
        """The document. Raises Unavailable where there is none."""
        if isinstance(self._document, Unavailable):
            raise self._document.with_traceback(None)
        return self._document

    async def current(self) -> Document:
        """The document; read again where it is not known how it is stored. Raises Unavailable, Moved."""
        if self._unknown:
            await self._read_again()
        return self.document

    async def edit(
        self,
        request: Request,
        edit: Callable[[Document], None],
        *,
        size: int = 0,
        along: Change | None = None,
        frees: bool = False,
    ) -> bool:
        """One change of the document, committed; False where this request was carried out before.

        `size`: characters that are written and removed. `along`: what is committed with it. `frees`: it removes
        something, and so is never too much.
        """

        async def attempt() -> bool:
            if not frees:
                await self.keep(size)
            try:
                await self._apply(edit, size)
                change = along or Change()
                self.store(change)
                self._ledger.remember(request, "", change)
                await self._ledger.commit(change)
            except BaseException as failed:
                await self.take_back(failed)
                raise
            return True

        async def again(_: str) -> bool:
            return False

        return await self._ledger.once(request, attempt, again)

    async def add_code(self, cell_id: CellId, source: str, index: int | None) -> None:
        """Adds a code cell, not yet stored. Raises InvalidRequest where the id is taken."""
        new = self.new_cell(cell_id, "code", source)
        await self._apply(lambda document: document.insert_cell(new, index), len(source))

    def new_cell(
        self, cell_id: CellId, cell_type: str, source: str, metadata: dict[str, Any] | None = None
    ) -> DocumentCell:
        """A cell to insert. It shows nothing of an earlier cell that had its id and is gone."""
        return DocumentCell(cell_id, cell_type, source, metadata or {}, cleared=self.last_by_cell.get(cell_id))

    async def code_of(self, cell_id: CellId) -> str:
        """A code cell's source. Raises CellNotFound, InvalidRequest."""
        cell = (await self.current()).cell(cell_id)
        if cell.cell_type != "code":
            raise InvalidRequest(
                f"cannot execute non-code cell {cell_id!r} (type: {cell.cell_type})", cell_id=str(cell_id)
            )
        return cell.source

    def store(self, change: Change) -> None:
        """Adds what was edited to a change."""
        touched = self.document.touched(self._stored) if self._watchers.anybody else Touched()
        chunk = self.document.take_change()
        if not chunk:
            return
        number = self._chunks
        if number < _FOLD_AFTER:
            change.rows.append(partial(records.add_chunk, key=self.notebook, number=number, chunk=chunk))
        else:
            number = 0
            whole = self.document.save()
            change.rows.append(partial(records.replace_chunks, key=self.notebook, snapshot=whole))
        change.done.append(partial(self._note_stored, number + 1, self.document.heads, touched))

    async def take_back(self, failed: BaseException) -> None:
        """After an edit or its commit failed: goes back to the document as it is stored."""
        if isinstance(self._document, Unavailable):
            return  # nothing could be edited
        if isinstance(failed, Refused | IntegrityError) and self._document.heads == self._stored:
            return  # it was refused before anything was written
        await self._read_again()

    async def join(self, cells: list[DocumentCell]) -> list[Cell]:
        """Cells with the executions that they show, from memory or from the store."""
        shown = {cell.cell_id: self.shown(cell) for cell in cells}
        found = await self.executions(list(filter(None, shown.values())))
        none = ExecutionId("")
        return [Cell(cell, found.get(shown[cell.cell_id] or none)) for cell in cells]

    async def executions(
        self, ids: Sequence[ExecutionId], *, as_they_came: bool = False
    ) -> dict[ExecutionId, Execution]:
        """Executions with their outputs, from memory or from the store; `as_they_came` as for a live one's snapshot."""
        found: dict[ExecutionId, Execution] = {}
        stored: list[ExecutionId] = []
        for execution_id in ids:
            live = self._journal.find(execution_id)
            if live is None:
                stored.append(execution_id)
            else:
                found[execution_id] = live.snapshot(as_they_came=as_they_came)
        if stored:
            load = partial(execution_records.load_many, notebook=self.notebook, ids=stored)
            found |= await self._store.read(load)
        return found

    def shown(self, cell: DocumentCell, last: Mapping[CellId, ExecutionId] | None = None) -> ExecutionId | None:
        """The execution that a cell shows; `last`: each cell's last one at another moment than now."""
        newest = (self.last_by_cell if last is None else last).get(cell.cell_id)
        return newest if cell.cell_type == "code" and newest != cell.cleared else None

    async def _read_again(self) -> None:
        """The document as it is stored. Where that fails there is none until whoever needs it finds it readable."""
        self._unknown = True
        try:
            chunks = await self._store.read(partial(records.chunks, key=self.notebook))
            self._document = await asyncio.to_thread(Document.load, chunks)
        except (StoreFailed, DocumentDamaged) as failed:
            log.error("a document cannot be read back", notebook_key=self.notebook, why=str(failed))
            refused = type(refusal(failed)) if isinstance(failed, StoreFailed) else Unavailable
            self._document = refused(f"the notebook's document cannot be read back: {failed}")
            return
        self._stored, self._unknown = self._document.heads, False

    async def _apply(self, edit: Callable[[Document], None], size: int) -> None:
        document = await self.current()
        try:
            if size > _LARGE_EDIT:
                await asyncio.to_thread(edit, document)
            else:
                edit(document)
        except BaseException as failed:
            if isinstance(failed, Exception | asyncio.CancelledError | KeyboardInterrupt | SystemExit):
                raise
            # automerge panics with exceptions that are no Exception; one must not end the room
            raise DocumentDamaged(f"automerge cannot go on with the document: {failed}") from failed

    def _note_stored(self, chunks: int, heads: list[bytes], touched: Touched) -> None:
        self._chunks, self._stored = chunks, heads
        self._watchers.document(touched, self.document, self.shown)
        for tell in self.on_stored:
            tell()
