"""The executions of one notebook that are in memory, and what of them is not yet in the store.

The room's task changes them and decides when to commit; `unwritten` gives the transaction's steps, and what to do
when they are on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from cellyard_controller.config import LimitsConfig
from cellyard_controller.errors import ExecutionNotFound
from cellyard_controller.executions import records, retention, usage
from cellyard_controller.executions.calls import Answer
from cellyard_controller.executions.live import LiveExecution
from cellyard_controller.executions.model import Event, Execution, Notice, State
from cellyard_controller.executions.parts import Parts, with_chunks
from cellyard_controller.executions.spooled import SpooledText
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey, SessionId, TenantName
from cellyard_controller.store import Store
from cellyard_controller.store.blobs import Blobs

Row = Callable[[Connection], None]
"""One step of a transaction."""
Hear = Callable[[ExecutionId, CellId, Sequence[Event | Notice], Sequence[int]], None]
"""Hears what is shown of an execution, and how many characters each of it has."""

_KEEP_ENDED = 16
_FETCH_BATCHES = 64


class Journal:
    """Executions of one notebook in memory: all unfinished ones and a few that ended."""

    def __init__(
        self,
        notebook: NotebookKey,
        tenant: TenantName,
        store: Store,
        limits: LimitsConfig,
        hear: Hear | None = None,
    ) -> None:
        self._notebook, self._tenant, self._hear = notebook, tenant, hear
        self._store = store
        self._limits = limits
        self._live: dict[ExecutionId, LiveExecution] = {}

    def add(self, execution: Execution) -> LiveExecution:
        """Takes an execution into memory."""
        live = LiveExecution(
            execution,
            partial(self._fetch, execution.execution_id),
            text=partial(SpooledText, self._store.blobs),
            max_bytes=self._limits.output_bytes,
            max_outputs=self._limits.output_count,
            hear=partial(self._hear, execution.execution_id, execution.cell_id) if self._hear else None,
        )
        self._live[execution.execution_id] = live
        return live

    def live(self, execution_id: ExecutionId) -> LiveExecution:
        """An unfinished execution."""
        return self._live[execution_id]

    def drop(self, execution_id: ExecutionId) -> None:
        """Forgets an execution whose acceptance did not reach the disk."""
        self._live.pop(execution_id, None)

    def find(self, execution_id: ExecutionId) -> LiveExecution | None:
        """An execution that is in memory."""
        return self._live.get(execution_id)

    def of_session(self, session_id: SessionId) -> list[LiveExecution]:
        """Those in memory that a session has started."""
        return [live for live in self._live.values() if live.execution.session_id == session_id]

    async def open(self, execution_id: ExecutionId) -> LiveExecution:
        """An execution, from memory or from the store. Raises ExecutionNotFound."""
        live = self._live.get(execution_id)
        if live is None:
            execution = await self._store.read(
                partial(records.load, notebook=self._notebook, execution_id=execution_id)
            )
            if execution is None:
                raise await self._missing(execution_id)
            live = self.add(execution)
        return live

    async def answer_to(self, execution_id: ExecutionId, call_id: str) -> Answer | None:
        """The committed answer to a call, None where there is none."""
        seq = 0
        while events := await self._fetch(execution_id, seq):
            seq = events[-1].seq
            for event in events:
                if event.kind == "call_ended" and event.body["call_id"] == call_id:
                    return Answer(**event.body["answer"]) if event.body["answer"] else None
        return None

    async def recover(self, unfinished: list[Execution]) -> None:
        """Takes the unfinished executions of the store into memory, with the outputs that were committed."""
        for execution in unfinished:
            live = self.add(execution)
            seq = 0
            while events := await self._fetch(execution.execution_id, seq):
                live.replay(await asyncio.to_thread(with_chunks, events, self._store.blobs))
                seq = events[-1].seq

    @property
    def size(self) -> int:
        """Bytes that wait to be committed."""
        return sum(live.pending_size for live in self._live.values())

    def unwritten(self) -> tuple[list[Row], list[Callable[[], None]]]:
        """The steps that store what is not stored yet, and what to do when they are committed."""
        rows: list[Row] = []
        done: list[Callable[[], None]] = []
        # Ends come last: what an ending cell has done to the displays of others is shown before that it has ended.
        for live in sorted(self._live.values(), key=_ends):
            if not live.unpublished:
                continue
            if not live.pending:
                done.append(partial(live.publish, 0, Parts(live.sizes)))
                continue
            # Of a running one its events tell the outputs; they are folded once, at its end.
            execution = live.snapshot(with_outputs=live.execution.state is State.ENDED, in_files=True)
            parts = Parts(live.sizes)
            events, ids, blobs = tuple(live.pending), live.display_ids(), self._store.blobs
            rows.append(partial(_write, self._notebook, execution, events, ids, parts, blobs))
            if execution.started_at and any(event.kind == "finished" for event in events):
                rows.append(partial(usage.add, used=usage.of_execution(self._tenant, execution)))
            done.append(partial(live.publish, len(live.pending), parts))
        return rows, done

    def forget_ended(self) -> None:
        """Lets go of the oldest executions that have ended and are stored."""
        ended = [
            name for name, live in self._live.items() if live.execution.state is State.ENDED and not live.unpublished
        ]
        for name in ended[:-_KEEP_ENDED]:
            del self._live[name]

    def end(self, why: Exception) -> None:
        """Nothing more is shown of any of them."""
        for live in self._live.values():
            live.log.end(why)

    async def _missing(self, execution_id: ExecutionId) -> ExecutionNotFound:
        gone = partial(retention.was_there, notebook=self._notebook, execution_id=execution_id)
        if await self._store.read(gone):
            message = f"execution {execution_id!r} has expired: of a notebook the last {retention.KEPT} are kept"
        else:
            message = f"execution {execution_id!r} not found"
        return ExecutionNotFound(message, execution_id=str(execution_id))

    async def _fetch(self, execution_id: ExecutionId, after_seq: int) -> list[Event]:
        return await self._store.read(
            partial(records.events_after, execution_id=execution_id, after_seq=after_seq, limit=_FETCH_BATCHES)
        )


def _ends(live: LiveExecution) -> bool:
    return bool(live.pending) and live.pending[-1].kind == "finished"


def _write(
    notebook: NotebookKey,
    execution: Execution,
    events: tuple[Event, ...],
    display_ids: set[str],
    parts: Parts,
    blobs: Blobs,
    connection: Connection,
) -> None:
    stored_events, outputs = parts.of(events), parts.of_outputs(execution.outputs, connection=connection)
    parts.keep(connection, blobs, notebook, execution.execution_id)
    records.save(connection, replace(execution, outputs=outputs))
    records.add_events(connection, execution.execution_id, stored_events)
    records.add_displays(connection, notebook, execution.execution_id, display_ids)
