"""What a sandbox reports of an execution. Untrusted: believed for that sandbox alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cellyard_controller.executions.model import Outcome, Usage, Value
from cellyard_controller.ids import ExecutionId


@dataclass(frozen=True, slots=True)
class Started:
    """The kernel has taken it up."""

    execution_count: int


@dataclass(frozen=True, slots=True)
class Output:
    """An output as nbformat has it, plus `transient.display_id`."""

    output: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clear:
    """Empties its outputs, now or when the next one comes."""

    wait: bool


@dataclass(frozen=True, slots=True)
class Update:
    """Replaces what any execution displays under this id."""

    display_id: str
    data: dict[str, Any]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Truncated:
    """Output past the limit was discarded in the sandbox."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Called:
    """Its code calls a function of the client that started it."""

    call_id: str
    name: str
    args: str
    """A JSON array, tagged."""
    kwargs: str
    """A JSON object, tagged."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Its code asks for a line."""

    call_id: str
    prompt: str
    password: bool


@dataclass(frozen=True, slots=True)
class CommSaid:
    """A message of a comm, from the kernel."""

    comm_id: str
    kind: str
    """`open`, `message` or `close`."""
    data: dict[str, Any]
    target_name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    buffers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Warned:
    """Something about its sandbox that whoever runs the code should know."""

    kind: str
    message: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over in the sandbox."""

    outcome: Outcome
    execution_count: int
    value: Value | None
    interrupted_by: str
    reason: str
    usage: Usage
    traceparent: str = ""
    """Of its dispatch, as the agent says."""
    waited_s: float = 0.0
    """In the agent, until the kernel was given it."""
    reply: str = ""
    """What somebody asked for (manner.proto), a JSON object."""


What = Started | Output | Clear | Update | Truncated | Called | Asked | CommSaid | Warned | Ended


@dataclass(frozen=True, slots=True)
class Report:
    """One report; numbers go up by one over an agent's life."""

    number: int
    execution_id: ExecutionId
    what: What
    size: int
    """Bytes on the link, for limits."""
