"""What a `Client` shows: the controller itself, notebooks, sandboxes. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cellyard._translate import moment
from cellyard_proto.v1 import notebooks_pb2, sandboxes_pb2, sessions_pb2


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A controller, as it introduced itself."""

    endpoint: str
    version: str
    protocol: int
    tenant: str
    """Whom it takes the caller for."""
    controller_id: str
    ready: bool
    """Its runtimes are ready, and what was there before its start is adopted."""
    not_ready_reason: str
    runtimes: tuple[str, ...]
    """Those that the caller may use, the default first."""


@dataclass(frozen=True, slots=True)
class NotebookInfo:
    """A notebook, without opening it."""

    notebook_id: str
    created_at: datetime | None
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A place where a kernel runs."""

    sandbox_id: str
    container_id: str | None
    notebook_id: str | None
    """None while nobody has claimed it."""
    tenant: str
    state: str
    """ "creating", "warm", "claimed", "stopping" or "ended"."""
    template: str
    age_s: float
    runtime: str


def server_info(endpoint: str, hello: sessions_pb2.HelloResponse) -> ServerInfo:
    """From the controller's answer to the first call."""
    return ServerInfo(
        endpoint,
        hello.server_version,
        hello.protocol,
        hello.tenant,
        hello.controller_id,
        hello.ready,
        hello.not_ready_reason,
        tuple(hello.runtimes),
    )


def notebook_info(message: notebooks_pb2.NotebookInfo) -> NotebookInfo:
    """From the protocol's message."""
    return NotebookInfo(message.notebook_id, moment(message.created_at), moment(message.changed_at))


def sandbox_info(message: sandboxes_pb2.Sandbox) -> SandboxInfo:
    """From the protocol's message."""
    state = sandboxes_pb2.SandboxState.Name(message.state).removeprefix("SANDBOX_STATE_").lower()
    return SandboxInfo(
        message.sandbox_id,
        message.container_id or None,
        message.notebook_id or None,
        message.tenant,
        state,
        message.template,
        message.age_s,
        message.runtime,
    )
