"""What an execution is: its states, its ends, and the events that clients see. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cellyard_controller.executions.calls import NOTHING, Offers
from cellyard_controller.ids import CellId, ExecutionId, SessionId


class State(StrEnum):
    """Where an execution stands; it only goes forward."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    STARTED = "started"
    ENDED = "ended"


class End(StrEnum):
    """How an execution ended; each reaches exactly one."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    LOST = "lost"


class Outcome(StrEnum):
    """How a sandbox says that an execution ended there."""

    OK = "ok"
    ERROR = "error"
    KERNEL_GONE = "kernel_gone"


@dataclass(frozen=True, slots=True)
class Value:
    """The last expression's value: tagged JSON as the kernel gave it, or the JSON of its repr."""

    json: str
    is_repr: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What an execution used, as far as the sandbox can tell."""

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    wall_s: float = 0.0
    output_bytes: int = 0
    """Characters that it has shown, whatever became of them."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a source is to be run, where that is not as usual (manner.proto)."""

    silent: bool = False
    store_history: bool | None = None
    user_expressions: tuple[tuple[str, str], ...] = ()
    payload: bool = False


USUAL = Manner()


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution as it stands. `outputs` are nbformat's, plus `transient.display_id`."""

    execution_id: ExecutionId
    cell_id: CellId
    session_id: SessionId
    source: str
    state: State
    accepted_at: float
    start_deadline: float
    timeout_s: float | None = None
    stop_on_error: bool = False
    end_wanted: str = ""
    end: End | None = None
    end_reason: str = ""
    end_message: str = ""
    execution_count: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    last_seq: int = 0
    outputs: list[dict[str, Any]] = field(default_factory=list)
    value: Value | None = None
    usage: Usage = Usage()
    offers: Offers = NOTHING
    manner: Manner = USUAL
    reply: str = ""
    """What its end brings along for a front end, a JSON object. Kept in its `finished` event alone."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something durable that happened to an execution. Its number goes up by one."""

    seq: int
    kind: str
    """The name of its field in the protocol's ExecutionEvent."""
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """The state of this moment, for whoever watches; not numbered, not kept."""

    kind: str
    """`queued`, `waiting` or `progress`."""
    body: dict[str, Any]
