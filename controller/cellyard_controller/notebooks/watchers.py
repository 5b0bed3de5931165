"""Who watches a room, and what they have yet to read: what was committed, in its order, within bounds.

The room tells what happens once it is on disk. A watcher that does not read fast enough loses what waits for it, costs
no memory from then on, and takes the notebook as it is when it reads again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cellyard_controller.errors import Refused
from cellyard_controller.executions.model import Event, Execution, Notice
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import CellId, ExecutionId
from cellyard_controller.notebooks.document import Document, DocumentCell
from cellyard_controller.notebooks.document_touched import Touched
from cellyard_controller.notebooks.kernel import KernelView

MAX_EVENTS = 1000
"""Events that wait for one watcher at most."""
MAX_BYTES = 4 * 1024 * 1024
"""Characters of what waits for one watcher at most."""
_SMALL = 256
"""What an event without content counts as."""

Shown = Callable[[DocumentCell], ExecutionId | None]
"""The execution that a cell shows."""


@dataclass(frozen=True, slots=True)
class SnapshotBegin:
    """The notebook follows as it is: whoever watches forgets what it had."""


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """That was the notebook."""


@dataclass(frozen=True, slots=True)
class CellChanged:
    """A cell is new, changed or moved; with `outputs` what it shows is told too."""

    cell: DocumentCell
    after: CellId | None
    outputs: bool
    execution: Execution | None = None
    """What it shows. Outputs are as they came, carriage returns and backspaces not applied: more may follow."""


@dataclass(frozen=True, slots=True)
class CellShows:
    """A cell is new or shows another execution: becomes a `CellChanged` when it is read, with the outputs of then."""

    cell: DocumentCell
    after: CellId | None
    execution_id: ExecutionId | None


@dataclass(frozen=True, slots=True)
class CellRemoved:
    """A cell is gone."""

    cell_id: CellId


@dataclass(frozen=True, slots=True)
class MetadataChanged:
    """A value of the notebook's metadata."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class ExecutionChanged:
    """Something happened to an execution; an `Execution` says that it was accepted."""

    execution_id: ExecutionId
    cell_id: CellId
    what: Execution | Event | Notice


Told: TypeAlias = (
    SnapshotBegin | SnapshotEnd | CellChanged | CellRemoved | MetadataChanged | KernelView | CommSaid | ExecutionChanged
)
"""What somebody who watches is told."""
Waiting: TypeAlias = Told | CellShows


class Watcher:
    """One who watches. The room adds, its stream takes."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Waiting, int]] = deque()
        self._size = 0
        self._behind = True
        self._over: Refused | None = None
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """From now on it is told everything."""
        self._waiting.clear()
        self._size = 0
        self._behind = False

    def add(self, what: Waiting, size: int) -> None:
        """Something to read; too much, and all of it is dropped until it begins anew."""
        if self._behind:
            return
        if len(self._waiting) >= MAX_EVENTS or self._size + size > MAX_BYTES:
            self.fall_behind()
            return
        self._waiting.append((what, size))
        self._size += size
        self._changed.set()

    def fall_behind(self) -> None:
        """Drops what waits: it has to begin anew."""
        self._waiting.clear()
        self._size = 0
        self._behind = True
        self._changed.set()

    def end(self, why: Refused) -> None:
        """Nothing more comes after what waits."""
        self._over = self._over or why
        self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be read."""
        return not self._waiting

    async def next(self) -> Waiting | None:
        """What happened next; None where it has fallen behind. Raises what the room ended it with."""
        while not self._waiting:
            if self._over is not None:
                raise self._over
            if self._behind:
                return None
            self._changed.clear()
            await self._changed.wait()
        what, size = self._waiting.popleft()
        self._size -= size
        return what

    async def ended(self) -> Refused:
        """Why the room ended it, once it has."""
        while self._over is None:
            self._changed.clear()
            await self._changed.wait()
        return self._over


class Watchers:
    """All who watch one room. Told by the room's task, or between two of its steps."""

    def __init__(self) -> None:
        self._all: set[Watcher] = set()
        self._over: Refused | None = None
        self._kernel: KernelView | None = None

    @property
    def anybody(self) -> bool:
        """Whether somebody watches."""
        return bool(self._all)

    def join(self, watcher: Watcher) -> None:
        """One more; it is told nothing before it begins."""
        self._all.add(watcher)
        if self._over is not None:
            watcher.end(self._over)

    def leave(self, watcher: Watcher) -> None:
        """One less."""
        self._all.discard(watcher)

    def end(self, why: Refused) -> None:
        """The room is no more."""
        self._over = self._over or why
        for watcher in self._all:
            watcher.end(self._over)

    def tell(self, what: Waiting, size: int = _SMALL) -> None:
        """Something has happened. `size`: about how many characters it has."""
        for watcher in self._all:
            watcher.add(what, size)

    def kernel(self, view: KernelView) -> None:
        """How the kernel is; told where it is another than before."""
        if view != self._kernel:
            self._kernel = view
            self.tell(view)

    def accepted(self, execution: Execution) -> None:
        """An execution was accepted."""
        changed = ExecutionChanged(execution.execution_id, execution.cell_id, execution)
        self.tell(changed, _SMALL + len(execution.source))

    def execution(
        self, execution_id: ExecutionId, cell_id: CellId, what: Sequence[Event | Notice], sizes: Sequence[int]
    ) -> None:
        """Something has happened to an execution."""
        if self._all:
            for item, size in zip(what, sizes, strict=True):
                self.tell(ExecutionChanged(execution_id, cell_id, item), _SMALL + size)

    def document(self, touched: Touched, document: Document, shown: Shown) -> None:
        """A change of the document: what is gone first, then cells in document order, each behind one that is there."""
        if not self._all:
            return
        if touched.everything or len(touched.cells) + len(touched.metadata) > MAX_EVENTS:
            for watcher in self._all:
                watcher.fall_behind()
            return
        there = [cell_id for cell_id in touched.cells if document.has_cell(cell_id)]
        for cell_id in sorted(touched.cells.keys() - there):
            self.tell(CellRemoved(cell_id))
        for _, after, cell_id in sorted((*document.place(cell_id), cell_id) for cell_id in there):
            cell = document.cell(cell_id)
            size = _SMALL + len(cell.source) + len(str(cell.metadata))
            if touched.cells[cell_id]:
                self.tell(CellShows(cell, after, shown(cell)), size)
            else:
                self.tell(CellChanged(cell, after, outputs=False), size)
        for key in sorted(touched.metadata):
            value = document.metadata(key)
            self.tell(MetadataChanged(key, value), _SMALL + len(value or ""))
