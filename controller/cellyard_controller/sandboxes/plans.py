"""What the scheduler plans from, and what plans are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cellyard_controller.ids import SandboxId, TenantName

ClaimNumber = int


@dataclass(frozen=True, slots=True)
class Kind:
    """What sandboxes are alike in before anybody has them: one pool for each."""

    runtime: str
    template: str
    network: str
    """`none` or `open`; a list comes with the claim, so `allowlist` is `none` here."""
    kernel_type: str
    env_source: str
    environment: str = ""
    """The prepared environment that is mounted in it, a tenant's own; "" for that of its image."""


@dataclass(frozen=True, slots=True)
class Need:
    """What sandboxes take: of the machine's, or of a tenant's quota."""

    sandboxes: int = 1
    memory_bytes: int = 0
    cpus: float = 0.0

    def __add__(self, other: Need) -> Need:
        return Need(
            self.sandboxes + other.sandboxes,
            self.memory_bytes + other.memory_bytes,
            self.cpus + other.cpus,
        )

    def __sub__(self, other: Need) -> Need:
        return Need(
            self.sandboxes - other.sandboxes,
            self.memory_bytes - other.memory_bytes,
            self.cpus - other.cpus,
        )


NOTHING = Need(0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much there is; None is no bound."""

    sandboxes: int | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    weight: float = 1.0
    """Of a tenant: its part of the machine is proportional to it."""

    def exceeded(self, used: Need) -> str:
        """The first bound that is passed, by its name in quotas: "sandboxes", "memory" or "cpu"; "" for none."""
        if self.sandboxes is not None and used.sandboxes > self.sandboxes:
            return "sandboxes"
        if self.memory_bytes is not None and used.memory_bytes > self.memory_bytes:
            return "memory"
        if self.cpus is not None and used.cpus > self.cpus + _ROUNDING:
            return "cpu"
        return ""

    def share(self, used: Need) -> float:
        """The largest part of the bounds that is used; 0 where nothing is bounded."""
        parts = [0.0]
        if self.sandboxes:
            parts.append(used.sandboxes / self.sandboxes)
        if self.memory_bytes:
            parts.append(used.memory_bytes / self.memory_bytes)
        if self.cpus:
            parts.append(used.cpus / self.cpus)
        return max(parts)


_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Waiting:
    """Somebody asks for a sandbox."""

    claim: ClaimNumber
    """In the order of asking."""
    tenant: TenantName
    kind: Kind
    need: Need


class Stage(StrEnum):
    """Where a sandbox is, as far as scheduling goes."""

    MAKING = "making"
    WARM = "warm"
    HELD = "held"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class Known:
    """A sandbox that takes room."""

    sandbox_id: SandboxId
    kind: Kind
    need: Need
    stage: Stage
    since: float
    """When it was made."""
    tenant: TenantName | None = None
    """Who has it, or for whose claim it is being made."""
    claim: ClaimNumber | None = None
    """For whom it is being made."""
    unused_since: float | None = None
    """Of one that somebody has: since when it does nothing; None while it does."""
    outdated: bool = False
    """A warm one that nobody should get any more: too old, or of an image that is not the template's now."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision rests on."""

    now: float
    machine: Bounds
    waiting: Sequence[Waiting] = ()
    known: Sequence[Known] = ()
    quotas: Mapping[TenantName, Bounds] = field(default_factory=dict)
    """Of every tenant that waits or has something; without an entry there is no bound."""
    served: Mapping[TenantName, int] = field(default_factory=dict)
    """When each tenant was given something last, as a count of all that was given."""
    targets: Mapping[Kind, tuple[int, Need]] = field(default_factory=dict)
    """How many warm ones each pool is to have, and what one of them takes."""
    pausing: Collection[Kind] = ()
    """Pools for which nothing is made now."""
    making_at_once: int = 8
    evict_after: float | None = None
    """Seconds; None evicts nothing."""
    elsewhere: Mapping[TenantName, Need] = field(default_factory=dict)
    """What tenants have on other nodes: it counts for whose turn it is. Quotas over all nodes come as `quotas`."""
    together: Bounds | None = None
    """What all nodes have, of which shares are parts; None: this machine is all there is."""


@dataclass(frozen=True, slots=True)
class Give:
    """A warm sandbox goes to a claim."""

    claim: ClaimNumber
    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class Make:
    """A sandbox is made, for a claim or for the pool."""

    kind: Kind
    claim: ClaimNumber | None = None


@dataclass(frozen=True, slots=True)
class Promise:
    """A sandbox that is being made is for this claim; None: for the pool."""

    sandbox: SandboxId
    claim: ClaimNumber | None


@dataclass(frozen=True, slots=True)
class End:
    """A warm sandbox is ended, or one that somebody has is evicted."""

    sandbox: SandboxId
    evicted: bool = False


Decision = Give | Make | Promise | End


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a claim waits, and how many are ahead of it."""

    reason: str
    """A quota's name ("sandboxes", "memory", "cpu"), "capacity", or "start" where it is only being made."""
    position: int


@dataclass(frozen=True, slots=True)
class Outline:
    """How things are on a node."""

    snapshot: Snapshot
    waits: Mapping[ClaimNumber, Wait]
    """What those who wait were told last."""
    failing: bool = False
    """Nothing that is made comes up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and what those are told who go on waiting."""

    decisions: tuple[Decision, ...]
    waits: Mapping[ClaimNumber, Wait]
