"""All nodes as they last reported, kept so that a decision looks at a few of them only. Pure: it reads no clock.

Whoever reads the reports keeps one up to date. Nodes where something can be placed stand in bags: by the room they
have, by the kinds that are warm there, by the environments that they have prepared.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.reports import NodeReport, TenantUse
from cellyard_controller.cluster.shares import Ring
from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Kind, Need

K = TypeVar("K")

_STEPS = 4
"""Bags of nodes by free memory for each doubling of it."""


@dataclass(slots=True)
class Node:
    """One node, as far as its last report and what was placed there since say."""

    name: str
    report: NodeReport
    heard_at: float
    given: Need = NOTHING
    """What was placed there since it reported."""
    taken: Counter[Kind] = field(default_factory=Counter)
    """Of what was warm, likewise."""
    bag: int = -1

    @property
    def has_room(self) -> bool:
        """Whether it may be given more."""
        return self.fits(_ONE)

    def fits(self, need: Need) -> bool:
        """Whether so much has room there. Where claims wait for it or nothing comes up there is none, whatever is
        reported: a node that is always the emptiest would be sent everything."""
        return not self.report.waiting and not self.report.failing and self.report.fits(need, self.given)

    def warm(self, kind: Kind) -> int:
        """How many of a kind nobody has, nor was sent to since."""
        return max(0, self.report.warm.get(kind, 0) - self.taken[kind])

    @property
    def room(self) -> float:
        """The free part of it."""
        return 1 - self.report.capacity.share(self.report.used + self.given)


class Bag:
    """Names, of which any one can be taken at once."""

    __slots__ = ("_names", "_places")

    def __init__(self) -> None:
        self._names: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> str:
        return self._names[index]

    def add(self, name: str) -> None:
        """One that is not in it."""
        self._places[name] = len(self._names)
        self._names.append(name)

    def remove(self, name: str) -> None:
        """One that is in it."""
        last = self._names.pop()
        place = self._places.pop(name)
        if last != name:
            self._names[place], self._places[last] = last, place


class Fleet:
    """The nodes."""

    def __init__(self, *, stale_after_s: float) -> None:
        """`stale_after_s`: a node that was not heard of for so long is placed nothing on."""
        self._stale_after = stale_after_s
        self._nodes: OrderedDict[str, Node] = OrderedDict()
        """In the order in which they were heard of."""
        self._stale: dict[str, Node] = {}
        self._tenants: dict[TenantName, TenantUse] = {}
        self._waiting: dict[TenantName, Ring] = {}
        self._capacity = NOTHING
        self._unbounded_cpus = 0
        self.serving = Ring()
        """Nodes that make sandboxes for those who ask."""
        self.by_room: dict[int, Bag] = {}
        self.by_kind: dict[Kind, Bag] = {}
        self.by_environment: dict[str, Bag] = {}

    def __len__(self) -> int:
        return len(self._nodes) + len(self._stale)

    def heard(self, name: str, report: NodeReport, now: float) -> None:
        """A node's report, as of this moment of the reader's clock."""
        if report.state is NodeState.LOST:  # its sandboxes ended before anybody could say so
            self.gone(name)
            return
        same = self._nodes.get(name)
        if same is not None and same.report == report and not same.given.sandboxes and not same.taken:
            same.heard_at = now
            self._nodes.move_to_end(name)
            return
        self._take_out(name)
        node = Node(name, report, now)
        self._nodes[name] = node
        self._count(node, +1)
        if report.state is NodeState.SERVING:
            if name not in self.serving:
                self.serving.add(name)
            self._index(node)
        elif name in self.serving:
            self.serving.remove(name)

    def gone(self, name: str) -> None:
        """A node's sandboxes are no more: it counts nowhere."""
        self._take_out(name)
        if name in self.serving:
            self.serving.remove(name)

    def expire(self, now: float) -> None:
        """Nothing is placed any more on nodes that were not heard of for long; what they use goes on counting."""
        while self._nodes:
            name, node = next(iter(self._nodes.items()))
            if now - node.heard_at <= self._stale_after:
                return
            self._unindex(node)
            self._stale[name] = self._nodes.pop(name)
            if name in self.serving:
                self.serving.remove(name)

    def find(self, name: str) -> Node | None:
        """A node that serves and was heard of lately."""
        node = self._nodes.get(name)
        return node if node is not None and node.report.state is NodeState.SERVING else None

    def placed(self, name: str, kind: Kind, need: Need) -> None:
        """Something was placed on a node: until it reports, so much less is free there."""
        node = self.find(name)
        if node is None:
            return
        self._unindex(node)
        if node.warm(kind):
            node.taken[kind] += 1
        else:
            node.given += need
        self._index(node)

    def tenant(self, tenant: TenantName) -> TenantUse:
        """What all nodes report of a tenant, added up."""
        return self._tenants.get(tenant, _NO_USE)

    def waiting(self, tenant: TenantName) -> Ring:
        """The nodes where claims wait for a tenant's own quota."""
        return self._waiting.get(tenant, _NOBODY)

    @property
    def capacity(self) -> Bounds:
        """Of all nodes together."""
        cpus = None if self._unbounded_cpus else self._capacity.cpus
        return Bounds(self._capacity.sandboxes, self._capacity.memory_bytes, cpus)

    def with_room_for(self, need: Need) -> tuple[list[Bag], Bag]:
        """Bags of nodes that have the memory for certain, and the one of those that may have it."""
        least = _bag(need.memory_bytes)
        return [bag for number, bag in self.by_room.items() if number > least], self.by_room.get(least, _EMPTY)

    def __iter__(self) -> Iterator[Node]:
        yield from self._nodes.values()
        yield from self._stale.values()

    def _take_out(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            self._unindex(node)
        else:
            node = self._stale.pop(name, None)
        if node is not None:
            self._count(node, -1)

    def _count(self, node: Node, sign: int) -> None:
        capacity = node.report.capacity
        all_of_it = Need(capacity.sandboxes or 0, capacity.memory_bytes or 0, capacity.cpus or 0.0)
        self._capacity = self._capacity + all_of_it if sign > 0 else self._capacity - all_of_it
        self._unbounded_cpus += sign * (capacity.cpus is None)
        for tenant, use in node.report.tenants.items():
            total = self._tenants.get(tenant, _NO_USE)
            used = total.used + use.used if sign > 0 else total.used - use.used
            left = TenantUse(used, total.waiting + sign * use.waiting)
            if left.used.sandboxes or left.used.memory_bytes or left.waiting:
                self._tenants[tenant] = left
            else:
                self._tenants.pop(tenant, None)
            if use.waiting:
                self._line_up(tenant, node.name, sign)

    def _line_up(self, tenant: TenantName, name: str, sign: int) -> None:
        ring = self._waiting.setdefault(tenant, Ring())
        if sign > 0:
            ring.add(name)
        else:
            ring.remove(name)
            if not len(ring):
                del self._waiting[tenant]

    def _index(self, node: Node) -> None:
        for kind in node.report.warm:
            if node.warm(kind):
                self.by_kind.setdefault(kind, Bag()).add(node.name)
        for name in node.report.environments:
            self.by_environment.setdefault(name, Bag()).add(node.name)
        if node.has_room:
            node.bag = _bag((node.report.capacity.memory_bytes or 0) - (node.report.used + node.given).memory_bytes)
            self.by_room.setdefault(node.bag, Bag()).add(node.name)

    def _unindex(self, node: Node) -> None:
        if node.report.state is not NodeState.SERVING:
            return
        for kind in node.report.warm:
            if node.warm(kind):
                _drop(self.by_kind, kind, node.name)
        for name in node.report.environments:
            _drop(self.by_environment, name, node.name)
        if node.bag >= 0:
            _drop(self.by_room, node.bag, node.name)
            node.bag = -1


def _drop(bags: dict[K, Bag], key: K, name: str) -> None:
    bags[key].remove(name)
    if not len(bags[key]):
        del bags[key]


def _bag(memory_bytes: int) -> int:
    """Which bag: the number grows with the logarithm of the memory."""
    if memory_bytes < _STEPS:
        return 0
    bits = memory_bytes.bit_length()
    return _STEPS * bits + ((memory_bytes >> (bits - 3)) & (_STEPS - 1))


_ONE = Need(1)
_NO_USE = TenantUse(NOTHING)
_NOBODY = Ring()
_EMPTY = Bag()
