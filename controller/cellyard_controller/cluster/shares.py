"""Quotas over all nodes together: how much of a tenant's quota each node may hand out by itself. Pure.

Each node reports what every tenant uses there, and then reads what the others reported. What is left of a quota is
dealt among the nodes, and until its next report a node hands out no more than its part:

- Where no node says that claims wait for the tenant's quota, the rest is dealt among all nodes that serve, one sandbox
  at a time, from the tenant's own place in the ring on. So a tenant with a small quota has a few nodes where it can
  start at once, and placement knows them.
- Where some do, it is dealt among them alone. A node may take its part only once everybody has read that it waits.
- Where more is used than the quota, each node goes down to its part of the quota as sandboxes end there.

With that, all nodes together never hand out more beyond a quota than the largest rest that one of them saw when it last
read the reports, whatever their number: always less than the quota once more. docs/sizing.md has the proof.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice

from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Need


@lru_cache(65_536)
def point(name: str) -> int:
    """A place in the ring, the same for everybody."""
    return int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest())


class Ring:
    """Nodes in an order in which each tenant has its own beginning, and in which a newcomer only moves others back."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._points = sorted((point(name), name) for name in names)

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, name: str) -> bool:
        index = bisect_left(self._points, (point(name), name))
        return index < len(self._points) and self._points[index][1] == name

    def add(self, name: str) -> None:
        """A node that is not there yet."""
        insort(self._points, (point(name), name))

    def remove(self, name: str) -> None:
        """A node that is there."""
        del self._points[bisect_left(self._points, (point(name), name))]

    def rank(self, tenant: TenantName, name: str) -> int:
        """How many nodes come before this one, which is there, for this tenant."""
        return (bisect_left(self._points, (point(name), name)) - self._start(tenant)) % len(self._points)

    def after(self, tenant: TenantName, index: int) -> str:
        """The node with so many before it."""
        return self._points[(self._start(tenant) + index) % len(self._points)][1]

    def first(self, tenant: TenantName, count: int) -> Iterator[str]:
        """The first nodes for this tenant."""
        return (self.after(tenant, index) for index in islice(range(len(self._points)), count))

    def _start(self, tenant: TenantName) -> int:
        return bisect_left(self._points, (point(tenant), ""))


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a node sits among those that something is dealt to."""

    rank: int
    count: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a node knows of a tenant since it last reported and read."""

    here: Need = NOTHING
    """What it reported of itself."""
    everywhere: Need = NOTHING
    """What all nodes had reported by then, this one too."""
    seat: Seat | None = None
    """None: nothing is dealt to it."""


def seat(
    me: str, tenant: TenantName, serving: Ring, waiting: Ring, *, served_s: float, waited_s: float, round_s: float
) -> Seat | None:
    """Where this node sits when a tenant's rest is dealt, from what it read last.

    `waiting`: the nodes that report claims waiting for the tenant's quota. `served_s`, `waited_s`: for how long this
    node has reported, without a break until its last report, that it serves, and that claims wait here. `round_s`: in
    this time every node has reported and read, or does nothing any more.
    """
    if me not in serving:
        return None
    if len(waiting) - (me in waiting):
        known = me in waiting and waited_s >= round_s
        return Seat(waiting.rank(tenant, me), len(waiting)) if known else None
    if me in waiting and waited_s >= round_s:
        return Seat(0, 1)
    return Seat(serving.rank(tenant, me), len(serving)) if served_s >= round_s else None


def dealt(rest: float, unit: float, where: Seat | None) -> float:
    """What one node gets of the rest, which is dealt in units around the table; the last one may be smaller.

    Grows with the rest, and shrinks with more nodes or a later place, never the other way about: so nodes that have
    read at different moments do not hand out more than the largest rest that one of them saw.
    """
    if where is None or rest <= 0:
        return 0
    if unit <= 0:  # nothing that sandboxes take of it
        return rest / where.count
    whole = int(rest // unit)
    full = max(0, -((where.rank - whole) // where.count))
    part = rest - whole * unit if whole % where.count == where.rank else 0
    return full * unit + part


def local_bounds(quota: Bounds, known: Exchange, unit: Need) -> Bounds:
    """What a node may let the tenant use there until it reports next: a quota for the scheduler.

    `unit`: what the largest sandbox takes that the tenant may ask for; a rest is not dealt in smaller parts.
    """

    def bound(limit: float | None, here: float, everywhere: float, one: float) -> float | None:
        if limit is None:
            return None
        if everywhere > limit:
            return here * limit / everywhere
        return here + dealt(limit - everywhere, one, known.seat)

    sandboxes = bound(quota.sandboxes, known.here.sandboxes, known.everywhere.sandboxes, 1)
    memory = bound(quota.memory_bytes, known.here.memory_bytes, known.everywhere.memory_bytes, unit.memory_bytes)
    return Bounds(
        None if sandboxes is None else int(sandboxes),
        None if memory is None else int(memory),
        bound(quota.cpus, known.here.cpus, known.everywhere.cpus, unit.cpus),
        quota.weight,
    )


def reach(quota: Bounds, everywhere: Need, unit: Need) -> int | None:
    """How many nodes of the ring can start one more for the tenant at once; None: as many as there are.

    For placement, which then chooses among the first of the ring for this tenant.
    """
    parts = (
        (quota.sandboxes, everywhere.sandboxes, 1),
        (quota.memory_bytes, everywhere.memory_bytes, unit.memory_bytes),
        (quota.cpus, everywhere.cpus, unit.cpus),
    )
    rests = [(limit - used) // one for limit, used, one in parts if limit is not None and one > 0]
    return max(0, int(min(rests))) if rests else None
