"""A quota over several nodes: nodes that report, read, give and take in any order, and what they hand out together."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cellyard_controller.cluster.shares import Exchange, Ring, Seat, dealt, local_bounds, reach, seat
from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Need

ANNE = TenantName("anne")
ONE = Need(1, 3, 0.5)
ROUND_S = 9.0
CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEATS = st.integers(1, 12).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count)))


@CALM
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 12))
def test_a_rest_is_dealt_whole_and_not_twice(rest: int, unit: int, count: int) -> None:
    parts = [dealt(rest, unit, Seat(rank, count)) for rank in range(count)]
    assert sum(parts) == rest
    assert max(parts) - min(parts) <= unit


@CALM
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5), SEATS, st.integers(0, 5), st.integers(0, 5))
def test_nobody_gets_more_of_a_smaller_rest_or_at_a_fuller_table(
    rest: int, less: int, unit: int, where: tuple[int, int], before: int, after: int
) -> None:
    rank, count = where
    fuller = Seat(rank + before, count + before + after)
    assert dealt(max(0, rest - less), unit, fuller) <= dealt(rest, unit, Seat(rank, count))


@CALM
@given(st.sets(st.text(max_size=5), min_size=1), st.text(max_size=5))
def test_a_newcomer_only_moves_others_back(names: set[str], newcomer: str) -> None:
    ring = Ring(names)
    assert sorted(ring.rank(ANNE, name) for name in names) == list(range(len(names)))
    assert [ring.rank(ANNE, name) for name in ring.first(ANNE, len(names))] == list(range(len(names)))
    before = {name: ring.rank(ANNE, name) for name in names}
    if newcomer not in ring:
        ring.add(newcomer)
        assert all(ring.rank(ANNE, name) >= rank for name, rank in before.items())
        ring.remove(newcomer)
    assert {name: ring.rank(ANNE, name) for name in names} == before


def test_the_nodes_that_placement_prefers_are_those_that_can_start_one_at_once() -> None:
    ring, quota = Ring(f"n{number}" for number in range(10)), Bounds(sandboxes=7, memory_bytes=13)
    everywhere = Need(3, 3, 1.0)
    near = reach(quota, everywhere, ONE)
    assert near == 3, "of the memory three more have room, of the number four"
    for name in ring.first(ANNE, 10):
        where = seat(name, ANNE, ring, Ring(), served_s=ROUND_S, waited_s=0.0, round_s=ROUND_S)
        room = local_bounds(quota, Exchange(NOTHING, everywhere, where), ONE)
        assert (not room.exceeded(ONE)) == (ring.rank(ANNE, name) < near)
    assert reach(Bounds(), everywhere, ONE) is None
    assert reach(Bounds(sandboxes=2), everywhere, ONE) == 0


def test_who_is_new_or_has_only_just_begun_to_wait_is_dealt_nothing() -> None:
    both, nobody = Ring(["a", "b"]), Ring()
    assert seat("c", ANNE, both, nobody, served_s=99.0, waited_s=0.0, round_s=ROUND_S) is None
    assert seat("a", ANNE, both, nobody, served_s=8.0, waited_s=0.0, round_s=ROUND_S) is None
    assert seat("a", ANNE, both, Ring(["b"]), served_s=99.0, waited_s=0.0, round_s=ROUND_S) is None
    assert seat("a", ANNE, both, both, served_s=99.0, waited_s=8.0, round_s=ROUND_S) is None
    assert seat("a", ANNE, both, Ring(["a"]), served_s=99.0, waited_s=9.0, round_s=ROUND_S) == Seat(0, 1)


def test_where_more_is_used_than_the_quota_everybody_goes_down_to_a_part() -> None:
    quota = Bounds(sandboxes=8)
    parts = [local_bounds(quota, Exchange(Need(here), Need(12), Seat(0, 2)), ONE).sandboxes for here in (9, 3)]
    assert parts == [6, 2]


@dataclass
class Member:
    """One node, as it is, as the others read it, and until when it may use what was dealt to it."""

    serves: bool = True
    used: Need = NOTHING
    waiting: int = 0
    told: Need = NOTHING
    told_waiting: bool = False
    bounds: Bounds = field(default_factory=lambda: Bounds(0, 0, 0.0))
    reported_at: float = 0.0
    served_since: float = 0.0
    waited_since: float = 0.0


class Nodes(RuleBasedStateMachine):
    """Six nodes and one tenant."""

    @initialize(sandboxes=st.integers(1, 9), memory=st.integers(3, 30), cpus=st.sampled_from([None, 0.5, 2.0, 4.0]))
    def begin(self, sandboxes: int, memory: int, cpus: float | None) -> None:
        self.now = 0.0
        self.quota = Bounds(sandboxes, memory, cpus)
        self.nodes = {f"n{number}": Member() for number in range(6)}

    def pick(self, index: int) -> str:
        return f"n{index}"

    @rule(index=st.integers(0, 5))
    def report(self, index: int) -> None:
        name = self.pick(index)
        me = self.nodes[name]
        me.told, me.reported_at = me.used, self.now
        waits = me.waiting > 0
        if waits and not me.told_waiting:
            me.waited_since = self.now
        me.told_waiting = waits
        serving = Ring(each for each, member in self.nodes.items() if member.serves)
        waiting = Ring(each for each, member in self.nodes.items() if member.told_waiting)
        where = seat(
            name,
            ANNE,
            serving,
            waiting,
            served_s=self.now - me.served_since,
            waited_s=self.now - me.waited_since if waits else 0.0,
            round_s=ROUND_S,
        )
        everywhere = NOTHING
        for member in self.nodes.values():
            everywhere += member.told
        me.bounds = local_bounds(self.quota, Exchange(me.told, everywhere, where), ONE)
        self.give(me)

    def give(self, me: Member) -> None:
        while me.waiting and not me.bounds.exceeded(me.used + ONE):
            me.waiting -= 1
            me.used += ONE

    @rule(index=st.integers(0, 5), count=st.integers(1, 12))
    def ask(self, index: int, count: int) -> None:
        me = self.nodes[self.pick(index)]
        me.waiting += count
        self.give(me)

    @rule(order=st.permutations(range(6)))
    def rush(self, order: list[int]) -> None:
        for index in order:
            self.ask(index, 9)
            self.report(index)

    @rule(index=st.integers(0, 5), count=st.integers(1, 12))
    def let_go(self, index: int, count: int) -> None:
        me = self.nodes[self.pick(index)]
        for _ in range(min(count, me.used.sandboxes)):
            me.used -= ONE
        self.give(me)

    @rule(index=st.integers(0, 5))
    def give_up(self, index: int) -> None:
        self.nodes[self.pick(index)].waiting = 0

    @precondition(lambda self: sum(member.serves for member in self.nodes.values()) > 1)
    @rule(index=st.integers(0, 5))
    def drain(self, index: int) -> None:
        self.nodes[self.pick(index)].serves = False
        self.report(index)

    @rule(index=st.integers(0, 5))
    def serve_again(self, index: int) -> None:
        me = self.nodes[self.pick(index)]
        if not me.serves:
            me.serves, me.served_since = True, self.now
            self.report(index)

    @rule(seconds=st.sampled_from([0.5, 3.0, 8.0, 9.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        """Who has not reported for a round gives out nothing any more, beyond what it had said that it has."""
        self.now += seconds
        for member in self.nodes.values():
            if self.now - member.reported_at >= ROUND_S:
                member.bounds = Bounds(member.told.sandboxes, member.told.memory_bytes, member.told.cpus)

    def total(self) -> Need:
        total = NOTHING
        for member in self.nodes.values():
            total += member.used
        return total

    @invariant()
    def never_as_much_as_twice_the_quota(self) -> None:
        total = self.total()
        assert total.sandboxes < 2 * (self.quota.sandboxes or 0)
        assert total.memory_bytes < 2 * (self.quota.memory_bytes or 0)
        assert self.quota.cpus is None or total.cpus < 2 * self.quota.cpus

    def teardown(self) -> None:
        """The whole quota comes to be used wherever claims wait, and what is beyond it is not given out again."""
        if not hasattr(self, "nodes"):
            return
        for index in range(6):
            self.serve_again(index)
            self.let_go(index, 100)
            self.give_up(index)
        self.ask(2, 20)
        self.ask(5, 20)
        for _ in range(20):
            self.time_passes(3.0)
            for index in range(6):
                self.report(index)
        total = self.total()
        assert self.quota.exceeded(total + ONE), "what is left of it is used"
        for _ in range(20):
            self.let_go(2, 1)
            self.let_go(5, 1)
            self.time_passes(3.0)
            for index in range(6):
                self.report(index)
        assert not self.quota.exceeded(self.total()), "what was too much has ended"


Nodes.TestCase.settings = settings(
    max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestNodes = Nodes.TestCase
