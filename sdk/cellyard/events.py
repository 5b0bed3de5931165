"""What `stream_execute` and `watch` give as it happens.

Numbered events (`seq` from 1) are durable and the same for every client; those with `seq` 0 tell the state of
this moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from cellyard._display import shorten
from cellyard.info import KernelInfo
from cellyard.results import Cell, ExecutionResult, Output, Progress


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits behind other cells of the notebook."""

    ahead: int
    """How many executions of the notebook come before it."""
    execution_id: str
    cell_id: str
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """It waits for a sandbox."""

    reason: str
    """`sandboxes`, `memory` or `cpu` (the tenant's quota), or `capacity` (the machine)."""
    position: int
    """How many are served before it."""
    eta_s: float | None
    """A guess in seconds, from how fast others were served lately; None where nobody was."""
    execution_id: str
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The kernel has taken the cell up."""

    execution_count: int | None
    started_at: datetime | None
    execution_id: str
    cell_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """Something was shown. Neighbouring chunks of a stream come one by one, as they were written."""

    output: Output
    seq: int

    def __repr__(self) -> str:
        return f"OutputEvent(seq={self.seq}, {shorten(str(self.output), 200)!r})"


@dataclass(frozen=True, slots=True)
class OutputCleared:
    """The outputs so far are to go: now, or with `wait` when the next one comes (Jupyter's clear_output)."""

    wait: bool
    seq: int


@dataclass(frozen=True, slots=True)
class DisplayUpdated:
    """What was displayed under `display_id` has new content (Jupyter's update_display_data)."""

    display_id: str
    output: Output
    seq: int

    def __repr__(self) -> str:
        return f"DisplayUpdated(seq={self.seq}, {self.display_id}, {shorten(str(self.output), 200)!r})"


@dataclass(frozen=True, slots=True)
class HostCalled:
    """The code has called a function that the client which runs it offers (`host_calls=`)."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class InputRequested:
    """The code has asked for a line; the client that runs it answers (`on_input=`)."""

    prompt: str
    password: bool
    """What is typed must not be shown."""
    call_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something about the sandbox that whoever runs the code should know. No output of the code."""

    kind: str
    """A word for programs: "memory", "network_denied"."""
    message: str
    details: dict[str, str]
    seq: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The end, with everything that was shown; always the last event."""

    result: ExecutionResult
    seq: int

    def __repr__(self) -> str:
        return f"Finished(seq={self.seq}, {self.result.status}, {shorten(self.result.text, 200)!r})"


Event: TypeAlias = (
    Queued
    | Waiting
    | Progress
    | Started
    | OutputEvent
    | OutputCleared
    | DisplayUpdated
    | HostCalled
    | InputRequested
    | Warned
    | Finished
)
"""Everything that `stream_execute` may give."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Somebody has asked for an execution; in a snapshot, one that has not ended. Only `watch` gives it."""

    execution: ExecutionResult
    """Without outputs."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A notebook as it is. It replaces whatever was told before."""

    notebook_id: str
    cells: list[Cell]
    """In document order, with their outputs."""
    metadata: dict[str, str]
    """The notebook's metadata: what `get_metadata` gives, by key."""
    kernel: KernelInfo
    executions: list[ExecutionResult]
    """Those that wait or run, in their order, without outputs."""

    def __repr__(self) -> str:
        return f"Snapshot({self.notebook_id}, {len(self.cells)} cells, kernel {self.kernel.state})"


@dataclass(frozen=True, slots=True)
class CellUpdated:
    """A cell is new, was changed or moved, or shows something else than what its executions' events tell."""

    cell: Cell
    """As it is now. Outputs, count and `execution_id` are told only `with_outputs`; else they are as they were."""
    after: str | None
    """The cell that it stands behind; None for the first one."""
    with_outputs: bool


@dataclass(frozen=True, slots=True)
class CellRemoved:
    """A cell is gone."""

    cell_id: str


@dataclass(frozen=True, slots=True)
class MetadataChanged:
    """A value of the notebook's metadata."""

    key: str
    value: str | None
    """None where the key is gone."""


@dataclass(frozen=True, slots=True)
class KernelChanged:
    """The kernel is in another state, or another one."""

    kernel: KernelInfo


@dataclass(frozen=True, slots=True)
class CommSaid:
    """A comm's message from the kernel, what widgets live on; behind a snapshot, each widget as if opened now."""

    comm_id: str
    kind: str
    """`open`, `message` or `close`."""
    data: dict[str, Any]
    target_name: str = ""
    """Of `open`: "jupyter.widget", for example."""
    buffers: tuple[bytes, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of `open`."""


@dataclass(frozen=True, slots=True)
class ExecutionEvent:
    """Something happened to an execution, whoever started it: the same as `stream_execute` gives, and `Accepted`.

    From its `Started` on the cell, if it is a code cell, shows this execution, and no outputs of an earlier one.
    """

    execution_id: str
    cell_id: str
    event: Accepted | Event


NotebookEvent: TypeAlias = (
    Snapshot | CellUpdated | CellRemoved | MetadataChanged | KernelChanged | CommSaid | ExecutionEvent
)
"""Everything that `watch` may give."""
