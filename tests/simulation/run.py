"""The simulation: events in their order, and what is seen of them."""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import resource
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cellyard_controller.cluster.fleet import Fleet
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.placement import Wish, place
from cellyard_controller.cluster.reports import NodeReport
from cellyard_controller.cluster.shares import Exchange, Ring, local_bounds, reach, seat
from cellyard_controller.ids import NotebookId, NotebookRef, SandboxId, TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, End, Give, Known, Make, Need, Stage
from tests.simulation.load import GIB, UNIT, Arrival, Load, Size, need
from tests.simulation.node import POOLS, SimulatedNode
from tests.simulation.seen import Seen

PATIENCE_S = 300.0
ENDING_S = 0.3
LEAD_S = 0.6
PREPARING_S = 5.0
_NOBODY = TenantName("")


class Simulation:
    """All nodes, one view of their reports, and the events to come."""

    def __init__(self, size: Size, check: Callable[[SimulatedNode], None] | None = None) -> None:
        """`check`: is called with a node after each of its plans was carried out."""
        self.size, self.load, self.seen = size, Load(size), Seen(size)
        self.now = 0.0
        self._check = check
        self._chance = random.Random(size.seed + 1)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers, self._claims, self._sandboxes = itertools.count(), itertools.count(1), itertools.count(1)
        self.fleet = Fleet(stale_after_s=size.lease_s)
        self.nodes = [self._node(number) for number in range(size.nodes)]
        self.by_name = {node.name: node for node in self.nodes}
        self.used: Counter[TenantName] = Counter()
        """Sandboxes that tenants have or that are being made for them, in truth."""
        self._beyond: dict[TenantName, float] = {}
        self._memory_used = 0
        self._history: defaultdict[TenantName, list[tuple[float, Need, tuple[str, ...]]]] = defaultdict(list)
        """Of tenants with a quota: what the reports said in sum, and where claims waited, with the time."""
        self._silent: Counter[str] = Counter()
        self.open = 0
        """Notebooks that ask or have a sandbox."""
        self.tell: Callable[[Simulation], None] = lambda simulation: None
        """Is called two hundred times in a run."""
        self.moving = 0
        """Of them, those of lost nodes that nobody has taken over yet."""

    def run(self) -> Seen:
        """Until all notebooks have come and gone."""
        began = time.perf_counter()
        size = self.size
        for node in self.nodes:
            self._at(self._chance.uniform(0, size.report_every), self._report, node)
            for part, happens in ((size.lost, self._lose), (size.drained, self._drain)):
                if self._chance.random() < part:
                    self._at(self._chance.uniform(0.1, 1.0) * size.seconds, happens, node)
            self._plan(node)
            self._tell(node)
        arrivals = self.load.arrivals()
        self._come(arrivals, next(arrivals))
        self._at(size.seconds / 20, self._sample)
        gc.collect()
        gc.freeze()
        while self._events and self.now < size.seconds:
            self.now, _, event, arguments = heapq.heappop(self._events)
            event(*arguments)
        self.seen.seconds = time.perf_counter() - began
        return self.result()

    def result(self) -> Seen:
        """What was seen so far."""
        self.seen.limited = sum(quota.sandboxes is not None for quota in self.load.quotas.values())
        self.seen.overshoots = len(self._beyond)
        self.seen.quota_overshoot = max(self._beyond.values(), default=0.0)
        self.seen.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return self.seen

    def _node(self, number: int) -> SimulatedNode:
        chance = self._chance.random()
        lying, broken = chance < self.size.lying, chance > 1 - self.size.broken
        return SimulatedNode(f"node{number}", self.size, lying=lying, broken=broken)

    def _at(self, after_s: float, event: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self.now + after_s, next(self._numbers), event, arguments))

    # Notebooks

    def _come(self, arrivals: Any, arrival: Arrival) -> None:
        self.open += 1
        self._place(replace(arrival, asked_at=self.now))
        following = next(arrivals, None)
        if following is not None:
            self._at(max(0.0, following.at - self.now), self._come, arrivals, following)

    def _come_again(self, arrival: Arrival) -> None:
        self.open += 1
        self._place(replace(arrival, asked_at=self.now))

    def _place(self, arrival: Arrival) -> None:
        quota, total = self.load.quotas[arrival.tenant], self.fleet.tenant(arrival.tenant).used
        wish = Wish(
            NotebookRef(arrival.tenant, NotebookId(f"{arrival.notebook}")),
            arrival.kind,
            need(arrival.kind),
            arrival.last_node,
            arrival.avoid,
            reach(quota, total, UNIT),
        )
        clock, began = time.perf_counter_ns(), time.thread_time_ns()
        found = place(wish, self.fleet, self.now)
        self.seen.place_us.append((time.thread_time_ns() - began) / 1e3)
        self.seen.place_clock_us.append((time.perf_counter_ns() - clock) / 1e3)
        assert found is not None, "there is always a node that could hold it"
        self.seen.reasons[found.why] += 1
        if self._chance.random() * self.size.deciders < 1:
            self.fleet.placed(found.node, arrival.kind, wish.need)
        node, claim = self.by_name[found.node], next(self._claims)
        if node.state is not NodeState.SERVING:  # since its last report: it answers so, and the next one is tried
            self._place(replace(arrival, avoid=arrival.avoid | {node.name}))
            return
        node.ask(claim, arrival, self.now)
        self._at(PATIENCE_S, self._refuse, node, claim)
        before_crowd = self.now < self.size.crowd_at
        self._plan(node)
        hit = claim not in node.waiting
        if claim not in node.last.waits or node.last.waits[claim].reason == "start":
            node.claimed(arrival.kind, self.now, hit=hit)
            if arrival.kind in POOLS and before_crowd:
                self.seen.starts["hit" if hit else "miss"] += 1

    def _refuse(self, node: SimulatedNode, claim: int) -> None:
        wait = node.last.waits.get(claim)
        if claim in node.waiting and wait is not None and wait.reason != "start":
            del node.waiting[claim]
            self.seen.starts["refused"] += 1
            self.open -= 1
            self._plan(node)

    # Nodes

    def _plan(self, node: SimulatedNode) -> None:
        if node.state is NodeState.LOST:
            return
        snapshot = self._snapshot(node)
        began = time.thread_time_ns()
        found = node.plan(snapshot)
        self.seen.plans += 1
        if self.seen.plans % 10 == 0:  # all of them are more numbers than anything else here
            self.seen.plan_us.append((time.thread_time_ns() - began) / 1e3)
        for decision in found.decisions:
            if isinstance(decision, Give):
                self._give(node, decision)
            elif isinstance(decision, Make):
                self._make(node, decision)
            elif isinstance(decision, End):
                node.end(decision)
                self._at(ENDING_S, self._gone, node, decision.sandbox)
            else:
                self._count(node.known[decision.sandbox], -1)
                node.promise(decision)
                self._count(node.known[decision.sandbox], +1)
        if self._check is not None:
            self._check(node)

    def _snapshot(self, node: SimulatedNode) -> Any:
        own = node.reported.tenants if node.reported is not None else {}
        quotas, elsewhere = {}, {}
        for tenant in {waiting.tenant for waiting, _ in node.waiting.values()}:  # nobody else's are looked at
            total, mine = self.fleet.tenant(tenant).used, own.get(tenant)
            elsewhere[tenant] = total - mine.used if mine is not None else total
            quotas[tenant] = self._bounds(node, tenant)
        return node.snapshot(self.now, quotas, elsewhere, self.fleet.capacity)

    def _bounds(self, node: SimulatedNode, tenant: TenantName) -> Bounds:
        """The node's part of a quota, from what the reports said when it last reported itself."""
        quota = self.load.quotas[tenant]
        if quota.sandboxes is None:
            return quota
        if tenant not in node.bounds:
            told, history = node.reported, self._history[tenant]
            index = bisect_right(history, node.reported_at, key=lambda entry: entry[0]) - 1
            _, everywhere, waiting = history[index] if index >= 0 else (0.0, NOTHING, ())
            here = told.tenants[tenant].used if told is not None and tenant in told.tenants else NOTHING
            where = seat(
                node.name,
                tenant,
                self.fleet.serving,
                Ring(waiting),
                served_s=self.size.lease_s,
                waited_s=node.reported_at - node.waited_since.get(tenant, node.reported_at),
                round_s=self.size.lease_s,
            )
            fresh = self.now - node.reported_at < self.size.lease_s
            node.bounds[tenant] = local_bounds(quota, Exchange(here, everywhere, where if fresh else None), UNIT)
        return node.bounds[tenant]

    def _give(self, node: SimulatedNode, decision: Give) -> None:
        self._count(node.known[decision.sandbox], -1)
        known, arrival = node.give(decision)
        self._count(known, +1)
        self.seen.starts["granted"] += 1
        if self.now < self.size.crowd_at:
            limited = self.load.quotas[arrival.tenant].sandboxes is not None
            waits = self.seen.quota_waits_s if limited else self.seen.waits_s
            waits.append(self.now - arrival.asked_at)
        self._at(arrival.hold_s, self._end, node, known.sandbox_id)

    def _make(self, node: SimulatedNode, decision: Make) -> None:
        sandbox = SandboxId(f"s{next(self._sandboxes)}")
        node.make(decision, sandbox, self.now)
        self._count(node.known[sandbox], +1)
        if node.broken:
            self._at(LEAD_S, self._fail, node, sandbox)
            return
        environment = decision.kind.environment
        lead = LEAD_S * self._chance.uniform(0.7, 1.8)
        lead += PREPARING_S if environment and environment not in node.environments else 0.0
        self._at(lead, self._made, node, sandbox)

    def _made(self, node: SimulatedNode, sandbox: SandboxId) -> None:
        if sandbox in node.known:
            self._count(node.known[sandbox], -1)
            node.made(sandbox, self.now)
            self._plan(node)

    def _fail(self, node: SimulatedNode, sandbox: SandboxId) -> None:
        if sandbox in node.known:
            self._count(node.known[sandbox], -1)
            arrival = node.failed(sandbox, self.now)
            if arrival is not None:
                self._place(arrival)  # whoever it was for tries again
            self._plan(node)

    def _end(self, node: SimulatedNode, sandbox: SandboxId) -> None:
        """Its notebook's user has left."""
        arrival = node.held.pop(sandbox, None)
        if arrival is None:
            return
        self.open -= 1
        self._count(node.known[sandbox], -1)
        node.end(End(sandbox))
        self._at(ENDING_S, self._gone, node, sandbox)
        again = self.load.again(arrival, self.now, node.name)
        if again is not None:
            self._at(again.at - self.now, self._come_again, again)

    def _gone(self, node: SimulatedNode, sandbox: SandboxId) -> None:
        if sandbox in node.known:
            del node.known[sandbox]
            self._plan(node)

    def _count(self, known: Known, sign: int) -> None:
        """Keeps what tenants have in truth, and how far it is beyond their quotas."""
        if known.stage is Stage.HELD:
            self._memory_used += sign * known.need.memory_bytes
        tenant = known.tenant
        if tenant is None or known.stage not in (Stage.HELD, Stage.MAKING):
            return
        self.used[tenant] += sign
        limit = self.load.quotas[tenant].sandboxes
        if limit is not None and sign > 0 and self.used[tenant] > limit:
            self._beyond[tenant] = max(self._beyond.get(tenant, 0.0), self.used[tenant] / limit - 1)

    # Reports

    def _report(self, node: SimulatedNode) -> None:
        if node.state is NodeState.LOST:
            return
        self._at(self.size.report_every, self._report, node)
        if self._silent[node.name]:
            self._silent[node.name] -= 1
        elif self._chance.random() < self.size.silent / 5:
            self._silent[node.name] = 4
        else:
            self._tell(node)
            if node.waiting:
                self._plan(node)

    def _tell(self, node: SimulatedNode) -> None:
        """A report, which everybody reads; what it changes for tenants' quotas is kept with the time."""
        self.seen.reports += 1
        before = node.reported.tenants if node.reported is not None else {}
        node.bounds.clear()
        if node.changed or node.reported is None:
            report = node.report(self.now)
        else:
            report, node.reported_at = node.reported, self.now
        self.fleet.heard(node.name, report, self.now)
        self._keep(
            {name for name in before.keys() | report.tenants.keys() if before.get(name) != report.tenants.get(name)}
        )

    def _keep(self, changed: set[TenantName]) -> None:
        for tenant in changed:
            if self.load.quotas[tenant].sandboxes is None:
                continue
            history, ring = self._history[tenant], self.fleet.waiting(tenant)
            history.append((self.now, self.fleet.tenant(tenant).used, tuple(ring.first(_NOBODY, len(ring)))))
            if len(history) > 50 and history[len(history) // 2][0] < self.now - 2 * self.size.lease_s:
                del history[: len(history) // 2]

    def _lose(self, node: SimulatedNode) -> None:
        """Its machine has gone; when its lease has run out its notebooks open elsewhere."""
        node.state = NodeState.LOST
        arrivals = [arrival for _, arrival in node.waiting.values()] + list(node.held.values())
        self.moving += len(arrivals)
        self.seen.lost_sandboxes += len(node.known)
        for known in node.known.values():
            self._count(known, -1)
        node.known.clear()
        node.waiting.clear()
        node.held.clear()
        self._at(self.size.lease_s, self._take_over, node, arrivals)

    def _take_over(self, node: SimulatedNode, arrivals: list[Arrival]) -> None:
        told = node.reported.tenants.keys() if node.reported is not None else ()
        report = node.reported or NodeReport(NodeState.LOST, node.machine)
        self.fleet.heard(node.name, replace(report, state=NodeState.LOST), self.now)
        self._keep(set(told))
        for arrival in arrivals:
            self.moving -= 1
            self.seen.moved += 1
            self._place(arrival)

    def _drain(self, node: SimulatedNode) -> None:
        """Nobody new; who waits goes elsewhere, who runs goes on to the end."""
        if node.state is NodeState.LOST:
            return
        node.state = NodeState.DRAINING
        waiting = [arrival for _, arrival in node.waiting.values()]
        node.waiting.clear()
        self._plan(node)
        self._tell(node)
        for arrival in waiting:
            self._place(arrival)

    # What is seen

    def _sample(self) -> None:
        size = self.size
        self._at(size.seconds / 200, self._sample)
        self.tell(self)
        if self.now < size.crowd_at:
            if self.now > size.crowd_at / 2:
                self.seen.utilisation.append(self._memory_used / (size.nodes * size.slots * GIB))
            return
        waiting = Counter(each.tenant for node in self.nodes for each, _ in node.waiting.values())
        if self.now < size.crowd_at + 2 * size.lease_s or any(not waiting[tenant] for tenant in self.load.crowd):
            return
        parts = [self.used[tenant] / self.load.quotas[tenant].weight for tenant in self.load.crowd]
        self.seen.jain.append(sum(parts) ** 2 / (len(parts) * sum(part**2 for part in parts)))
        self.seen.least_to_most.append(min(parts) / max(parts))
