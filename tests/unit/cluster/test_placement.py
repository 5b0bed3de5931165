"""Where notebooks go: each rule by example, and a fleet under any order of reports, placements and time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cellyard_controller.cluster.fleet import Fleet
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.placement import Placement, Why, Wish, place
from cellyard_controller.cluster.reports import NodeReport, TenantUse
from cellyard_controller.ids import NotebookId, NotebookRef, TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Kind, Need

PYTHON = Kind("docker", "default", "none", "python", "uv:prewarmed")
PREPARED = replace(PYTHON, env_source="uv:pyproject", environment="e1")
ONE = Need(1, 1_000, 1.0)
ANNE = TenantName("anne")
EMPTY = NodeReport(NodeState.SERVING, Bounds(10, 10_000, None))
FULL = replace(EMPTY, used=Need(10, 10_000, 10.0))


def wish(number: int = 0, kind: Kind = PYTHON, **rest: object) -> Wish:
    return replace(Wish(NotebookRef(ANNE, NotebookId(f"nb-{number}")), kind, ONE), **rest)  # type: ignore[arg-type]


def fleet(**reports: NodeReport) -> Fleet:
    found = Fleet(stale_after_s=10.0)
    for name, report in reports.items():
        found.heard(name, report, 0.0)
    return found


def test_the_last_node_comes_first_then_a_warm_one_then_its_environment_then_room() -> None:
    busy = replace(EMPTY, used=Need(8, 8_000, 8.0))
    nodes = fleet(
        a=EMPTY,
        last=busy,
        warm=replace(busy, warm={PREPARED: 1}),
        ready=replace(busy, environments=frozenset({"e1"})),
    )
    assert place(wish(kind=PREPARED, last_node="last"), nodes, 0.0) == Placement("last", Why.LAST)
    assert place(wish(kind=PREPARED), nodes, 0.0) == Placement("warm", Why.WARM)
    assert place(wish(kind=PREPARED, avoid=frozenset({"warm"})), nodes, 0.0) == Placement("ready", Why.ENVIRONMENT)
    avoided = frozenset({"last", "warm"})
    assert place(wish(kind=PYTHON, avoid=avoided), nodes, 0.0) == Placement("a", Why.ROOM), "with more of it"


def test_a_warm_one_is_promised_once_and_room_only_as_far_as_there_is_some() -> None:
    nodes = fleet(warm=replace(FULL, warm={PYTHON: 1}), small=replace(EMPTY, capacity=Bounds(2, 2_000, None)))
    found = []
    for number in range(4):
        placement = place(wish(number), nodes, 0.0)
        assert placement is not None
        found.append((placement.node, placement.why))
        nodes.placed(placement.node, PYTHON, ONE)
    assert found[:3] == [("warm", Why.WARM), ("small", Why.ROOM), ("small", Why.ROOM)]
    assert found[3][1] is Why.LINE


def test_where_claims_wait_there_is_no_room_whatever_is_reported() -> None:
    nodes = fleet(liar=replace(EMPTY, waiting=1), honest=replace(EMPTY, used=Need(9, 9_000, 9.0)))
    assert place(wish(), nodes, 0.0) == Placement("honest", Why.ROOM)
    assert place(wish(last_node="liar"), nodes, 0.0) == Placement("honest", Why.ROOM)


def test_a_node_on_which_nothing_comes_up_has_no_room_but_for_what_is_warm() -> None:
    broken = replace(EMPTY, failing=True)
    nodes = fleet(bad=broken, good=replace(EMPTY, used=Need(9, 9_000, 9.0)))
    assert place(wish(), nodes, 0.0) == Placement("good", Why.ROOM)
    assert place(wish(last_node="bad"), nodes, 0.0) == Placement("good", Why.ROOM)
    nodes.heard("bad", replace(broken, used=ONE, warm={PYTHON: 1}), 1.0)
    assert place(wish(), nodes, 1.0) == Placement("bad", Why.WARM)
    nodes.heard("bad", EMPTY, 2.0)
    assert place(wish(last_node="bad"), nodes, 2.0) == Placement("bad", Why.LAST)


def test_nodes_that_drain_are_away_lost_or_silent_are_never_chosen() -> None:
    nodes = fleet(**{state.value: replace(EMPTY, state=state) for state in NodeState if state != NodeState.SERVING})
    assert place(wish(last_node="draining"), nodes, 0.0) is None
    nodes.heard("a", EMPTY, 0.0)
    assert place(wish(), nodes, 10.0) == Placement("a", Why.ROOM)
    assert place(wish(last_node="a"), nodes, 10.1) is None, "not heard of for too long"
    nodes.heard("a", EMPTY, 11.0)
    assert place(wish(), nodes, 11.0) == Placement("a", Why.ROOM)


def test_without_room_anywhere_the_shorter_line_and_never_where_it_could_not_start() -> None:
    nodes = fleet(
        long=replace(FULL, waiting=7), short=replace(FULL, waiting=2), tiny=replace(EMPTY, capacity=Bounds(1, 10, None))
    )
    assert place(wish(), nodes, 0.0) == Placement("short", Why.LINE)
    assert place(wish(avoid=frozenset({"short"})), nodes, 0.0) == Placement("long", Why.LINE)
    assert place(replace(wish(), need=Need(1, 99_999, 1.0)), nodes, 0.0) is None


def test_those_who_decide_from_one_report_do_not_all_choose_one_node() -> None:
    reports = {f"n{number}": replace(EMPTY, used=Need(number % 9, 1_000 * (number % 9), 0)) for number in range(100)}
    nodes, chosen = fleet(**reports), Counter[str]()
    for number in range(1_000):
        placement = place(wish(number), nodes, 0.0)
        assert placement is not None
        assert placement == place(wish(number), nodes, 0.0), "the same again"
        chosen[placement.node] += 1
    assert max(chosen.values()) < 50
    low, high = (sum(chosen[name] for name, each in reports.items() if each.used.sandboxes == n) for n in (0, 8))
    assert low > 4 * high, "those with room get more"


def test_of_a_small_rest_of_a_quota_the_nodes_are_chosen_that_may_hand_it_out() -> None:
    nodes = fleet(**{f"n{number}": EMPTY for number in range(50)})
    first = set(nodes.serving.first(ANNE, 3))
    placements = [place(wish(number, reach=3), nodes, 0.0) for number in range(50)]
    assert {placement.node for placement in placements if placement} == first


def test_what_all_nodes_report_of_a_tenant_is_added_up_until_a_node_is_lost() -> None:
    use = {ANNE: TenantUse(ONE, 1)}
    nodes = fleet(a=replace(EMPTY, tenants=use), b=replace(EMPTY, tenants=use, state=NodeState.DRAINING))
    nodes.expire(99.0)
    assert nodes.tenant(ANNE) == TenantUse(ONE + ONE, 2)
    assert len(nodes.waiting(ANNE)) == 2
    nodes.heard("b", replace(EMPTY, state=NodeState.LOST), 99.0)
    assert nodes.tenant(ANNE) == TenantUse(ONE, 1)
    nodes.gone("a")
    assert nodes.tenant(ANNE) == TenantUse(NOTHING, 0)
    assert not len(nodes.waiting(ANNE))


class Yard(RuleBasedStateMachine):
    """A few nodes whose reports are always true when they are made."""

    @initialize()
    def begin(self) -> None:
        self.now, self.number = 0.0, 0
        self.fleet = Fleet(stale_after_s=10.0)
        self.used: dict[str, int] = {}
        self.size: dict[str, int] = {}
        self.state: dict[str, NodeState] = {}
        self.heard: dict[str, float] = {}

    @rule(node=st.integers(0, 7), size=st.integers(0, 4), used=st.integers(0, 4), state=st.sampled_from(NodeState))
    def report(self, node: int, size: int, used: int, state: NodeState) -> None:
        name = f"n{node}"
        used = min(used, size)
        report = NodeReport(
            state,
            Bounds(size, size * 1_000, None),
            Need(used, used * 1_000, used),
            {PYTHON: 1} if used else {},
            frozenset({"e1"} if node % 2 else ()),
            tenants={ANNE: TenantUse(Need(used), node % 3)},
        )
        self.fleet.heard(name, report, self.now)
        self.size[name], self.state[name], self.heard[name] = size, state, self.now
        self.used[name] = used - bool(used)  # the warm one can be had

    @rule(kind=st.sampled_from([PYTHON, PREPARED]), last=st.integers(0, 9), reach=st.none() | st.integers(0, 4))
    def place(self, kind: Kind, last: int, reach: int | None) -> None:
        self.number += 1
        found = place(wish(self.number, kind, last_node=f"n{last}", reach=reach), self.fleet, self.now)
        open_nodes = [
            name
            for name, size in self.size.items()
            if self.state[name] is NodeState.SERVING and self.now - self.heard[name] <= 10.0 and size
        ]
        if found is None:
            assert not open_nodes
            return
        assert found.node in open_nodes
        node = self.fleet.find(found.node)
        assert node is not None
        if found.why is not Why.LINE:
            assert node.warm(kind) or node.fits(ONE)
            self.fleet.placed(found.node, kind, ONE)
            self.used[found.node] += 1
            assert self.used[found.node] <= self.size[found.node], "no node gets more than it has said that it has"

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(node=st.integers(0, 7))
    def lose(self, node: int) -> None:
        self.fleet.gone(f"n{node}")
        self.size.pop(f"n{node}", None)

    @invariant()
    def sums_are_those_of_the_nodes(self) -> None:
        there = list(self.fleet)
        assert self.fleet.capacity.sandboxes == sum(node.report.capacity.sandboxes or 0 for node in there)
        used = sum(node.report.tenants[ANNE].used.sandboxes for node in there)
        assert self.fleet.tenant(ANNE).used.sandboxes == used
        lines = [node.name for node in there if node.report.tenants[ANNE].waiting]
        assert len(self.fleet.waiting(ANNE)) == len(lines)


Yard.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestYard = Yard.TestCase
