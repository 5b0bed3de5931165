"""Watching a notebook: first as it is, then what happens to it.

What is told first is the document of one moment, and what comes after it waits from that same moment on. Both are
taken in the room's task, behind a commit, so nothing lies between them. Outputs are too many to be taken at once: those
of a few cells are read when it is their turn, and then hold more than they did at that moment. So of what waits, the
events that they hold already are left out, by their numbers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

from cellyard_controller.errors import Stopping
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.model import Event, Execution, Notice
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import CellId, ExecutionId
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.kernel import Kernel, KernelView
from cellyard_controller.notebooks.ledger import Ledger
from cellyard_controller.notebooks.pages import Pages
from cellyard_controller.notebooks.runner import Runner
from cellyard_controller.notebooks.watchers import (
    CellChanged,
    CellShows,
    ExecutionChanged,
    MetadataChanged,
    SnapshotBegin,
    SnapshotEnd,
    Told,
    Waiting,
    Watcher,
    Watchers,
)
from cellyard_controller.notebooks.widgets import Widgets

_AT_ONCE = 10
"""Cells whose outputs are in memory at a time."""
_OF_OUTPUTS = ("output", "clear_output", "display_updated")
"""The events that outputs are made of."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """A notebook at one moment, as far as it is taken at once: a few words for each cell."""

    heads: list[bytes]
    cells: list[CellId]
    last: dict[CellId, ExecutionId]
    metadata: list[str]
    kernel: KernelView
    comms: list[CommSaid]
    executions: list[ExecutionChanged]


class Watching:
    """Streams for those who watch one room. Its coroutines may be called from any task."""

    def __init__(
        self,
        watchers: Watchers,
        pages: Pages,
        *,
        journal: Journal,
        runner: Runner,
        kernel: Kernel,
        ledger: Ledger,
        widgets: Widgets,
        ask: Ask,
    ) -> None:
        self._watchers, self._pages, self._journal = watchers, pages, journal
        self._runner, self._kernel, self._ledger = runner, kernel, ledger
        self._widgets, self._ask = widgets, ask

    async def watch(self) -> AsyncGenerator[Told, None]:
        """The notebook as it is, and what happens from then on; as it is again where the reader is too slow.

        Raises NotebookNotFound when it is deleted, Stopping when the controller stops, Unavailable where the store
        takes no writes: then there is nothing that could be told.
        """
        watcher = Watcher()
        self._watchers.join(watcher)
        try:
            while True:
                moment = await self._ask(partial(self._begin, watcher))
                known: dict[ExecutionId, int] = {}
                async for told in self._snapshot(moment, known):
                    yield told
                while (waiting := await watcher.next()) is not None:
                    for told in await self._told(waiting, known):
                        yield told
                    if watcher.idle:
                        known.clear()  # what comes now happened after everything that was read
        except Stopping:
            raise await watcher.ended() from None  # the room is gone; why is said when that is certain
        finally:
            self._watchers.leave(watcher)

    async def _snapshot(self, moment: _Moment, known: dict[ExecutionId, int]) -> AsyncGenerator[Told, None]:
        yield SnapshotBegin()
        for key in moment.metadata:
            yield MetadataChanged(key, await self._ask(partial(self._value, key, moment)))
        yield moment.kernel
        for comm in moment.comms:
            yield comm
        after: CellId | None = None
        for start in range(0, len(moment.cells), _AT_ONCE):
            ids = moment.cells[start : start + _AT_ONCE]
            for told in await self._ask(partial(self._part, moment, after, ids, known)):
                yield told
            after = ids[-1]
        for changed in moment.executions:
            yield changed
        yield SnapshotEnd()

    async def _told(self, waiting: Waiting, known: dict[ExecutionId, int]) -> list[Told]:
        """What becomes of something that waited."""
        if isinstance(waiting, CellShows):
            return await self._ask(partial(self._load, [waiting], known))
        if isinstance(waiting, ExecutionChanged):
            what = waiting.what
            if isinstance(what, Event) and what.kind in _OF_OUTPUTS and what.seq <= known.get(waiting.execution_id, 0):
                return []
        return [waiting]

    # In the room's task

    async def _begin(self, watcher: Watcher) -> _Moment:
        await self._ledger.commit()
        pages, document, kernel = self._pages, await self._pages.current(), self._kernel.view()
        self._watchers.kernel(kernel)
        watcher.begin()
        cells = document.cell_ids()
        return _Moment(
            heads=document.heads,
            cells=cells,
            last={cell_id: pages.last_by_cell[cell_id] for cell_id in cells if cell_id in pages.last_by_cell},
            metadata=document.metadata_keys(),
            kernel=kernel,
            comms=await self._widgets.open(),
            executions=self._unfinished(),
        )

    def _unfinished(self) -> list[ExecutionChanged]:
        queue = self._runner.queue
        told: list[ExecutionChanged] = []
        for entry in (*([queue.running] if queue.running else []), *queue.waiting):
            live = self._journal.live(entry.execution_id)
            now: list[Execution | Notice] = [live.snapshot(with_outputs=False)]
            if entry in queue.waiting and live.log.notice is not None:
                now.append(live.log.notice)
            told += [ExecutionChanged(entry.execution_id, entry.cell_id, what) for what in now]
        return told

    async def _value(self, key: str, moment: _Moment) -> str | None:
        return (await self._pages.current()).metadata(key, moment.heads)

    async def _part(
        self, moment: _Moment, after: CellId | None, ids: list[CellId], known: dict[ExecutionId, int]
    ) -> list[Told]:
        document = await self._pages.current()
        cells = [document.cell(cell_id, moment.heads) for cell_id in ids]
        before = [after, *ids]
        shown = [self._pages.shown(cell, moment.last) for cell in cells]
        return await self._load([CellShows(*each) for each in zip(cells, before, shown, strict=False)], known)

    async def _load(self, cells: list[CellShows], known: dict[ExecutionId, int]) -> list[Told]:
        """Cells with their outputs, as committed; notes up to which event they hold those."""
        await self._ledger.commit()
        wanted = [cell.execution_id for cell in cells if cell.execution_id is not None]
        found = await self._pages.executions(wanted, as_they_came=True)
        told: list[Told] = []
        for each in cells:
            execution = found.get(each.execution_id) if each.execution_id else None
            told.append(CellChanged(each.cell, each.after, outputs=True, execution=execution))
            if execution is None:
                continue
            known[execution.execution_id] = execution.last_seq
            live = self._journal.find(execution.execution_id)
            if live is not None and live.clear_waits:
                clear = Event(0, "clear_output", {"wait": True})
                told.append(ExecutionChanged(execution.execution_id, each.cell.cell_id, clear))
        return told
