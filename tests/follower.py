"""A client that follows a notebook by what Notebooks.Watch tells it, as docs/protocol.md says it is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cellyard_proto.outputs import OutputFold, data_to_nbformat, metadata_to_nbformat, to_nbformat
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb


@dataclass
class Followed:
    """One cell as the follower knows it."""

    told: nb.Cell
    execution_id: str = ""
    count: int = 0
    last_seq: int = 0
    outputs: OutputFold = field(default_factory=OutputFold)

    def plain(self) -> dict[str, Any]:
        """To compare with what `plain` makes of a cell that was asked for."""
        return {
            **_document(self.told),
            "execution_id": self.execution_id,
            "count": self.count,
            "outputs": self.outputs.outputs(),
        }


class Follower:
    """A notebook, built from its events. Asserts what every stream of events has to keep to."""

    def __init__(self) -> None:
        self.cells: dict[str, Followed] = {}
        self.order: list[str] = []
        self.metadata: dict[str, str] = {}
        self.kernel = ker.Kernel()
        self.executions: dict[str, str] = {}
        """What is known of each execution's end; "" while there is none."""
        self.whole = False
        """The snapshot is complete."""
        self.kinds: Counter[str] = Counter()
        self._seqs: dict[str, int] = {}

    def take(self, event: nb.NotebookEvent) -> None:
        """One event."""
        kind = event.WhichOneof("event")
        assert kind is not None
        self.kinds[kind] += 1
        assert self.kinds["snapshot_begin"]
        getattr(self, f"_{kind}")(getattr(event, kind))

    def plain(self) -> list[dict[str, Any]]:
        """All cells."""
        return [self.cells[cell_id].plain() for cell_id in self.order]

    def _snapshot_begin(self, begin: nb.SnapshotBegin) -> None:
        self.cells, self.order, self.metadata, self.executions = {}, [], {}, {}
        self.whole = False
        self._seqs = {}

    def _snapshot_end(self, end: nb.SnapshotEnd) -> None:
        assert not self.whole
        self.whole = True

    def _cell_changed(self, changed: nb.CellChanged) -> None:
        cell_id, after = changed.cell.cell_id, changed.after_cell_id
        if cell_id in self.cells:
            self.order.remove(cell_id)
        else:
            assert changed.with_outputs, "a cell that was never told whole"
        assert not after or after in self.cells, "a cell behind one that was never told"
        self.order.insert(self.order.index(after) + 1 if after else 0, cell_id)
        assert self.whole or self.order[-1] == cell_id
        cell = self.cells.setdefault(cell_id, Followed(changed.cell))
        cell.told = changed.cell
        if changed.with_outputs:
            cell.execution_id, cell.count = changed.cell.execution_id, changed.cell.execution_count
            cell.last_seq = changed.last_seq
            cell.outputs = OutputFold(to_nbformat(output) for output in changed.cell.outputs)

    def _cell_removed(self, removed: nb.CellRemoved) -> None:
        del self.cells[removed.cell_id]
        self.order.remove(removed.cell_id)

    def _metadata_changed(self, changed: nb.MetadataChanged) -> None:
        if changed.HasField("value"):
            self.metadata[changed.key] = changed.value
        else:
            del self.metadata[changed.key]

    def _kernel_changed(self, kernel: ker.Kernel) -> None:
        self.kernel = kernel

    def _execution_changed(self, changed: nb.ExecutionChanged) -> None:
        event, execution_id = changed.event, changed.execution_id
        kind = event.WhichOneof("event")
        if event.seq:
            assert event.seq > self._seqs.get(execution_id, 0), "told twice"
            self._seqs[execution_id] = event.seq
        if kind == "accepted":
            assert event.accepted.execution_id == execution_id
            self.executions[execution_id] = ""
        if kind == "finished":
            self.executions[execution_id] = ex.ExecutionEnd.Name(event.finished.end)
        cell = self.cells.get(changed.cell_id)
        if cell is not None:
            self._show(cell, execution_id, event)

    def _show(self, cell: Followed, execution_id: str, event: ex.ExecutionEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "started" and cell.told.cell_type == "code" and cell.execution_id != execution_id:
            cell.execution_id, cell.count = execution_id, event.started.execution_count
            cell.last_seq, cell.outputs = event.seq, OutputFold()
        if cell.execution_id != execution_id or 0 < event.seq <= cell.last_seq:
            return
        if kind == "output":
            cell.outputs.append(to_nbformat(event.output))
        elif kind == "clear_output":
            cell.outputs.clear(wait=event.clear_output.wait)
        elif kind == "display_updated":
            updated = event.display_updated
            data, metadata = data_to_nbformat(updated.data), metadata_to_nbformat(updated.metadata_json)
            cell.outputs.update_display(updated.display_id, data, metadata)
        elif kind == "finished":
            cell.count = event.finished.execution_count or cell.count
        cell.last_seq = event.seq or cell.last_seq


def plain(cell: nb.Cell) -> dict[str, Any]:
    """A cell as the controller shows it when it is asked."""
    return {
        **_document(cell),
        "execution_id": cell.execution_id,
        "count": cell.execution_count,
        "outputs": [to_nbformat(output) for output in cell.outputs],
    }


def _document(cell: nb.Cell) -> dict[str, Any]:
    return {
        "id": cell.cell_id,
        "type": cell.cell_type,
        "source": cell.source,
        "metadata": metadata_to_nbformat(cell.metadata_json),
        "version": cell.version,
    }
