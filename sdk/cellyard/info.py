"""What a `Client` shows: the controller itself, notebooks, sandboxes; and kernels. Frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cellyard._translate import moment
from cellyard_proto.v1 import kernels_pb2, nodes_pb2, notebooks_pb2, sandboxes_pb2, sessions_pb2


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
    node: str | None
    """The machine that it runs on, where several controllers share a store; else None."""


@dataclass(frozen=True, slots=True)
class NotebookInfo:
    """A notebook, without opening it."""

    notebook_id: str
    created_at: datetime | None
    changed_at: datetime | None
    labels: Mapping[str, str]
    """The user's own."""


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
    """Seconds since it was begun."""
    runtime: str
    end_reason: str | None
    """Why it ends or has ended: "shutdown", "idle", "ttl", "oom", "evicted", ..."""
    end_message: str | None
    claimed_at: datetime | None
    node: str | None
    """Where it is; None where the controller keeps its store for itself."""


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """Warm sandboxes of one kind, which wait for a claim."""

    template: str
    runtime: str
    kernel_type: str
    env_source: str
    target: int
    """How many warm ones there are to be; it follows the claims, within the configured bounds."""
    warm: int
    making: int
    claimed: int
    """How many of this kind notebooks have."""
    hits: int
    """Claims that found a warm one, since the controller's start."""
    misses: int
    failures: int
    """Sandboxes that did not come up."""
    claim_rate: float
    """Claims a second, of late."""
    lead_s: float
    """Seconds that making one takes, of late."""
    oldest_s: float
    """Seconds that the oldest warm one has waited; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A machine that shares a store with others, as its controller last said."""

    name: str
    endpoint: str
    """Where clients reach its controller."""
    state: str
    """ "serving", "draining", "away" (stopped to come back), or "lost" (others have its notebooks)."""
    lease_left_s: float
    """Seconds until its lease runs out unless it is renewed; 0 where it has."""
    fence: int
    """Counts who had the name: whoever has a smaller one can write nothing any more."""
    notebooks: int
    """Notebooks that it has."""
    sandboxes: int
    sandboxes_max: int
    """How many it may have."""
    warm: int
    """Of its sandboxes, those that wait for a notebook."""
    waiting: int
    """Claims that wait for a sandbox."""
    this_one: bool
    """The node of the controller that was asked."""
    failing: bool
    """Nothing that it makes comes up; its controller's log says why."""


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """A notebook's kernel; what does not apply is None."""

    state: str
    """ "none", "starting", "idle", "busy", "restarting" or "dead"."""
    generation: int
    """Counts the kernels of one sandbox; a restart adds one."""
    kernel_type: str | None
    env_source: str | None
    """The environment that runs, never "auto"."""
    sandbox_id: str | None
    runtime: str | None
    template: str | None
    network: str | None
    capabilities: tuple[str, ...]
    """What was proven for the sandbox."""
    end_reason: str | None
    """Why the notebook's last kernel ended."""
    claimed_at: datetime | None
    expires_at: datetime | None


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
        hello.node or None,
    )


def notebook_info(message: notebooks_pb2.NotebookInfo) -> NotebookInfo:
    """From the protocol's message."""
    created, changed = moment(message.created_at), moment(message.changed_at)
    return NotebookInfo(message.notebook_id, created, changed, dict(message.labels))


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
        message.end_reason or None,
        message.end_message or None,
        moment(message.claimed_at),
        message.node or None,
    )


def pool_info(message: sandboxes_pb2.Pool) -> PoolInfo:
    """From the protocol's message."""
    return PoolInfo(
        message.template,
        message.runtime,
        message.kernel_type,
        message.env_source,
        message.target,
        message.warm,
        message.making,
        message.claimed,
        message.hits,
        message.misses,
        message.failures,
        message.claim_rate,
        message.lead_s,
        message.oldest_s,
    )


def node_info(message: nodes_pb2.Node) -> NodeInfo:
    """From the protocol's message."""
    return NodeInfo(
        message.name,
        message.endpoint,
        nodes_pb2.NodeState.Name(message.state).removeprefix("NODE_STATE_").lower(),
        message.lease_left_s,
        message.fence,
        message.notebooks,
        message.sandboxes,
        message.sandboxes_max,
        message.warm,
        message.waiting,
        message.this_one,
        message.failing,
    )


def kernel_info(message: kernels_pb2.Kernel) -> KernelInfo:
    """From the protocol's message."""
    return KernelInfo(
        kernels_pb2.KernelState.Name(message.state).removeprefix("KERNEL_STATE_").lower(),
        message.generation,
        message.kernel_type or None,
        message.env_source or None,
        message.sandbox_id or None,
        message.runtime or None,
        message.template or None,
        message.network or None,
        tuple(message.capabilities),
        message.end_reason or None,
        moment(message.claimed_at),
        moment(message.expires_at),
    )
