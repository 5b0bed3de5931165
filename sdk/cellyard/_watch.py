"""What a client makes of the messages of Notebooks.Watch. Pure: no gRPC, no waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

from cellyard import _translate, events
from cellyard._execution import ExecutionView
from cellyard.info import KernelInfo, kernel_info
from cellyard.results import Cell, ExecutionResult
from cellyard_proto.outputs import metadata_to_nbformat
from cellyard_proto.v1 import executions_pb2, kernels_pb2, notebooks_pb2, outputs_pb2


@dataclass(slots=True)
class _Gathered:
    """A snapshot that is not told to its end yet, and what comes behind it."""

    notebook_id: str
    cells: list[Cell] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    kernel: KernelInfo = field(default_factory=lambda: kernel_info(kernels_pb2.Kernel()))
    executions: list[ExecutionResult] = field(default_factory=list)
    behind: list[events.NotebookEvent] = field(default_factory=list)

    def add(self, event: events.NotebookEvent) -> None:
        """One thing that is there."""
        match event:
            case events.CellUpdated():
                self.cells.append(event.cell)
            case events.MetadataChanged():
                self.metadata[event.key] = event.value or ""
            case events.KernelChanged():
                self.kernel = event.kernel
            case events.ExecutionEvent(event=events.Accepted(execution=execution)):
                self.executions.append(execution)
            case _:
                self.behind.append(event)

    def whole(self) -> list[events.NotebookEvent]:
        """All of it."""
        snapshot = events.Snapshot(self.notebook_id, self.cells, self.metadata, self.kernel, self.executions)
        return [snapshot, *self.behind]


class WatchView:
    """Turns what a controller tells of a notebook into events."""

    def __init__(self) -> None:
        self._gathered: _Gathered | None = None
        self._views: dict[str, ExecutionView] = {}
        self._from_start: set[str] = set()

    def take(self, message: notebooks_pb2.NotebookEvent) -> list[events.NotebookEvent]:
        """What became of a message: mostly one event; none before a snapshot is told to its end."""
        kind = message.WhichOneof("event")
        if kind == "snapshot_begin":
            self._gathered = _Gathered(message.snapshot_begin.notebook_id)
            self._views, self._from_start = {}, set()
            return []
        if kind == "snapshot_end" and self._gathered is not None:
            gathered, self._gathered = self._gathered, None
            return gathered.whole()
        event = self._event(kind, message)
        if event is None:
            return []
        if self._gathered is None:
            return [event]
        self._gathered.add(event)
        return []

    def saw_all_of(self, execution_id: str) -> bool:
        """Whether everything that happened to an execution was told here. Asked once, at its end."""
        whole = execution_id in self._from_start
        self._from_start.discard(execution_id)
        return whole

    def _event(self, kind: str | None, message: notebooks_pb2.NotebookEvent) -> events.NotebookEvent | None:
        if kind == "cell_changed":
            changed = message.cell_changed
            cell = _translate.cell(changed.cell)
            return events.CellUpdated(cell, changed.after_cell_id or None, changed.with_outputs)
        if kind == "cell_removed":
            return events.CellRemoved(message.cell_removed.cell_id)
        if kind == "metadata_changed":
            metadata = message.metadata_changed
            return events.MetadataChanged(metadata.key, metadata.value if metadata.HasField("value") else None)
        if kind == "kernel_changed":
            return events.KernelChanged(kernel_info(message.kernel_changed))
        if kind == "comm":
            return _comm(message.comm)
        if kind == "execution_changed":
            return self._execution(message.execution_changed)
        return None

    def _execution(self, changed: notebooks_pb2.ExecutionChanged) -> events.ExecutionEvent | None:
        execution_id = changed.execution_id
        view = self._views.get(execution_id)
        if view is None:
            view = ExecutionView()
            view.execution_id, view.cell_id = execution_id, changed.cell_id
        kind = changed.event.WhichOneof("event")
        event: events.Accepted | events.Event | None = view.take(changed.event)
        if kind == "accepted":
            accepted = changed.event.accepted
            event = events.Accepted(_translate.execution(accepted))
            self._views[execution_id] = view
            if accepted.state != executions_pb2.EXECUTION_STATE_STARTED:
                self._from_start.add(execution_id)
        elif kind == "finished":
            self._views.pop(execution_id, None)
        return None if event is None else events.ExecutionEvent(execution_id, changed.cell_id, event)


def _comm(message: outputs_pb2.Comm) -> events.CommSaid:
    kind = message.WhichOneof("what") or "message"
    said = getattr(message, kind)
    target_name = message.open.target_name if kind == "open" else ""
    return events.CommSaid(
        message.comm_id,
        kind,
        metadata_to_nbformat(said.data_json),
        target_name,
        tuple(message.buffers),
        metadata_to_nbformat(message.open.metadata_json) if kind == "open" else {},
    )
