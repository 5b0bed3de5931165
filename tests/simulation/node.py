"""A node: what the product's scheduler and pools decide is carried out in simulated time."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.reports import NodeReport, describe
from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.sandboxes.plans import (
    Bounds,
    End,
    Give,
    Kind,
    Known,
    Make,
    Need,
    Outline,
    Plan,
    Promise,
    Snapshot,
    Stage,
    Waiting,
)
from cellyard_controller.sandboxes.pool import Bounds as PoolBounds
from cellyard_controller.sandboxes.pool import Demand
from cellyard_controller.sandboxes.scheduler import plan
from tests.simulation.load import DENO, GIB, PYTHON, Arrival, Size, need

POOLS = {PYTHON: PoolBounds(2, 6), DENO: PoolBounds(1, 2)}
KEPT_ENVIRONMENTS = 40


class SimulatedNode:
    """What its controller would know."""

    def __init__(self, name: str, size: Size, *, lying: bool, broken: bool) -> None:
        self.name, self.broken = name, broken
        self.machine = Bounds(2 * size.slots, size.slots * GIB, None)
        self._claimed = Bounds(20 * size.slots, 10 * size.slots * GIB, None) if lying else self.machine
        self.state = NodeState.SERVING
        self.known: dict[SandboxId, Known] = {}
        self.waiting: dict[int, tuple[Waiting, Arrival]] = {}
        self.held: dict[SandboxId, Arrival] = {}
        self.environments: OrderedDict[str, None] = OrderedDict()
        self.reported: NodeReport | None = None
        self.reported_at = 0.0
        self.waited_since: dict[TenantName, float] = {}
        """Since which of its reports claims wait here for a tenant's quota."""
        self.bounds: dict[TenantName, Bounds] = {}
        """What it may let tenants use until it reports again."""
        self.changed = True
        self.last = Plan((), {})
        self._demand = {kind: Demand() for kind in POOLS}
        self._served: dict[TenantName, int] = {}
        self._servings = 0

    def ask(self, claim: int, arrival: Arrival, now: float) -> None:
        """Somebody wants a sandbox."""
        self.waiting[claim] = Waiting(claim, arrival.tenant, arrival.kind, need(arrival.kind)), arrival
        if arrival.kind in POOLS:
            self._demand[arrival.kind].asked(now)

    def claimed(self, kind: Kind, now: float, *, hit: bool) -> None:
        """One was warm, or none was."""
        if kind in POOLS:
            self._demand[kind].claimed(now, hit=hit)

    def snapshot(
        self, now: float, quotas: Mapping[TenantName, Bounds], elsewhere: Mapping[TenantName, Need], together: Bounds
    ) -> Snapshot:
        """As the controller makes it."""
        known = list(self.known.values())
        serving = self.state is NodeState.SERVING
        in_use = Counter(each.kind for each in known if each.stage is Stage.HELD)
        return Snapshot(
            now,
            self.machine,
            [waiting for waiting, _ in self.waiting.values()],
            known,
            quotas,
            self._served,
            {
                kind: (demand.target(now, POOLS[kind], in_use[kind]) if serving else 0, need(kind))
                for kind, demand in self._demand.items()
            },
            [kind for kind, demand in self._demand.items() if demand.pause(now)],
            elsewhere=elsewhere,
            together=together,
        )

    def plan(self, snapshot: Snapshot) -> Plan:
        """What follows."""
        self.last = plan(snapshot)
        self.changed = True
        return self.last

    def report(self, now: float) -> NodeReport:
        """What it says of itself; not always the truth."""
        waiting = [each for each, _ in self.waiting.values()]
        snapshot = Snapshot(now, self.machine, waiting, list(self.known.values()))
        failing = all(self._demand[kind].failing(now) for kind, bounds in POOLS.items() if bounds.least)
        outline = Outline(snapshot, self.last.waits, failing)
        report = replace(describe(outline, self.environments, self.state), capacity=self._claimed)
        self.reported, self.reported_at, self.changed = report, now, False
        waits = {tenant for tenant, use in report.tenants.items() if use.waiting}
        self.waited_since = {tenant: self.waited_since.get(tenant, now) for tenant in waits}
        return report

    def give(self, decision: Give) -> tuple[Known, Arrival]:
        """Somebody has one now."""
        waiting, arrival = self.waiting.pop(decision.claim)
        known = replace(self.known[decision.sandbox], stage=Stage.HELD, tenant=waiting.tenant, claim=None)
        self.known[known.sandbox_id] = known
        self.held[known.sandbox_id] = arrival
        self._serve(waiting.tenant)
        return known, arrival

    def make(self, decision: Make, sandbox: SandboxId, now: float) -> None:
        """One is being made."""
        tenant = None
        if decision.claim is not None:
            tenant = self.waiting[decision.claim][0].tenant
            self._serve(tenant)
        kind = decision.kind
        self.known[sandbox] = Known(sandbox, kind, need(kind), Stage.MAKING, now, tenant, decision.claim)

    def promise(self, decision: Promise) -> None:
        """It is for somebody else."""
        tenant = None if decision.claim is None else self.waiting[decision.claim][0].tenant
        self.known[decision.sandbox] = replace(self.known[decision.sandbox], tenant=tenant, claim=decision.claim)

    def end(self, decision: End) -> None:
        """Its room is on its way back."""
        self.known[decision.sandbox] = replace(self.known[decision.sandbox], stage=Stage.ENDING, tenant=None)

    def made(self, sandbox: SandboxId, now: float) -> None:
        """It is warm."""
        known = self.known[sandbox]
        if known.kind in POOLS:
            self._demand[known.kind].made(now - known.since)
        if known.kind.environment:
            self.environments[known.kind.environment] = None
            self.environments.move_to_end(known.kind.environment)
            if len(self.environments) > KEPT_ENVIRONMENTS:
                self.environments.popitem(last=False)
        self.known[sandbox] = replace(known, stage=Stage.WARM, tenant=None)

    def failed(self, sandbox: SandboxId, now: float) -> Arrival | None:
        """It did not come up; whoever it was for goes elsewhere."""
        known = self.known.pop(sandbox)
        if known.claim in self.waiting:
            assert known.claim is not None
            return self.waiting.pop(known.claim)[1]
        if known.kind in POOLS:
            self._demand[known.kind].failed(now)
        return None

    def _serve(self, tenant: TenantName) -> None:
        self._servings += 1
        self._served[tenant] = self._servings
