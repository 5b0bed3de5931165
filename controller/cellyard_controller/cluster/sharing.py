"""What the nodes report, as this node's scheduler and placement use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from cellyard_controller.cluster import reports, shares
from cellyard_controller.cluster.fleet import Fleet
from cellyard_controller.cluster.leases import Node
from cellyard_controller.cluster.placement import Why, Wish, place
from cellyard_controller.cluster.standing import Terms
from cellyard_controller.ids import NotebookRef, TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Kind, Need

log = structlog.get_logger()

Usual = tuple[Kind, Need]
"""What a notebook is taken to want of which nothing else is known yet, and what that takes."""


class Sharing:
    """All nodes, as they were read last. Used on the event loop alone."""

    def __init__(self, name: str, terms: Terms, usual: Usual, unit: Callable[[], Need]) -> None:
        """`name`: this node's. `unit`: what the largest sandbox takes that can be asked for."""
        self._name, self._terms, self._usual, self._unit = name, terms, usual, unit
        self._fleet = Fleet(stale_after_s=terms.lease_s)
        self._read: dict[str, tuple[int, float, str]] = {}
        """Each node's row as it was taken in: fence, end of the lease, state."""
        self._faults: dict[str, tuple[str, ...]] = {}
        self._here: Mapping[TenantName, reports.TenantUse] = {}
        self._serving_since: float | None = None
        self._waiting_since: dict[TenantName, float] = {}

    def heard(self, nodes: Sequence[Node], now: float) -> None:
        """The nodes were read, at this moment of a clock that goes evenly."""
        for node in nodes:
            row = node.fence, node.expires_at, node.state
            if self._read.get(node.name) == row:
                continue
            self._read[node.name] = row
            report, faults = reports.read(node.report, node.state)
            if faults and faults != self._faults.get(node.name):
                log.warning("a node's report is not believed as it is", node=node.name, why=list(faults)[:5])
            self._faults[node.name] = faults
            self._fleet.heard(node.name, report, now)
            if node.name == self._name:
                self._here = report.tenants
        for name in self._read.keys() - {node.name for node in nodes}:
            del self._read[name]
            self._fleet.gone(name)
        self._fleet.expire(now)
        self._note(nodes, now)

    # For the scheduler

    def bounds(self, tenant: TenantName, quota: Bounds, now: float) -> Bounds:
        """What a tenant may have on this node, of a quota that holds over all nodes."""
        where = shares.seat(
            self._name,
            tenant,
            self._fleet.serving,
            self._fleet.waiting(tenant),
            served_s=0.0 if self._serving_since is None else now - self._serving_since,
            waited_s=now - self._waiting_since[tenant] if tenant in self._waiting_since else 0.0,
            round_s=self._terms.lease_s,
        )
        return shares.local_bounds(
            quota, shares.Exchange(self._used_here(tenant), self._used(tenant), where), self._unit()
        )

    def elsewhere(self, tenant: TenantName) -> Need:
        """What a tenant has on other nodes."""
        return self._used(tenant) - self._used_here(tenant)

    @property
    def together(self) -> Bounds:
        """What all nodes have."""
        return self._fleet.capacity

    # For placement

    def place(self, ref: NotebookRef, last: str, avoid: frozenset[str], quota: Bounds, now: float) -> str | None:
        """A node for a notebook that nobody has; None where none could ever hold it."""
        wish = Wish(ref, *self._usual, last_node=last, avoid=avoid)
        return self._placed(wish, quota, now, set(Why))

    def room(self, wish: Wish, quota: Bounds, now: float) -> str | None:
        """A node where what is wished for would start at once; None where there is none."""
        return self._placed(wish, quota, now, set(Why) - {Why.LINE})

    def failing(self, name: str) -> bool:
        """Whether a node serves and nothing comes up on it."""
        node = self._fleet.find(name)
        return node is not None and node.report.failing

    # Inside

    def _placed(self, wish: Wish, quota: Bounds, now: float, reasons: Collection[Why]) -> str | None:
        reach = shares.reach(quota, self._used(wish.ref.tenant), self._unit())
        chosen = place(replace(wish, reach=reach), self._fleet, now)
        if chosen is None or chosen.why not in reasons:
            return None
        self._fleet.placed(chosen.node, wish.kind, wish.need)
        return chosen.node

    def _note(self, nodes: Sequence[Node], now: float) -> None:
        serves = self._name in self._fleet.serving
        if not serves:
            self._serving_since = None
        elif self._serving_since is None:
            # Where nobody else has a lease there is nobody who would have to hear of this node first.
            alone = all(node.name == self._name or node.left_s <= 0 for node in nodes)
            self._serving_since = now - self._terms.lease_s if alone else now
        waits = {tenant for tenant, use in self._here.items() if use.waiting}
        self._waiting_since = {tenant: self._waiting_since.get(tenant, now) for tenant in waits}

    def _used(self, tenant: TenantName) -> Need:
        return self._fleet.tenant(tenant).used

    def _used_here(self, tenant: TenantName) -> Need:
        use = self._here.get(tenant)
        return use.used if use is not None else NOTHING
