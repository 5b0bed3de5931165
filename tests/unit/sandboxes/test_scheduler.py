"""Scheduling: examples of each rule, and a machine that does what plans say, in any order of events."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.sandboxes.plans import (
    Bounds,
    End,
    Give,
    Kind,
    Known,
    Make,
    Need,
    Promise,
    Snapshot,
    Stage,
    Wait,
    Waiting,
)
from cellyard_controller.sandboxes.scheduler import plan

PYTHON = Kind("docker", "default", "none", "python", "uv:prewarmed")
LARGE = replace(PYTHON, template="large")
ONE = Need(1, 1_000, 1.0)
FOUR = Need(1, 4_000, 1.0)
NEEDS = {PYTHON: ONE, LARGE: FOUR}
ANNE, BERT, CARL = TenantName("anne"), TenantName("bert"), TenantName("carl")


def waits(claim: int, tenant: TenantName, kind: Kind = PYTHON) -> Waiting:
    return Waiting(claim, tenant, kind, NEEDS[kind])


def warm(name: str, kind: Kind = PYTHON, since: float = 0.0, *, outdated: bool = False) -> Known:
    return Known(SandboxId(name), kind, NEEDS[kind], Stage.WARM, since, outdated=outdated)


def held(name: str, tenant: TenantName, kind: Kind = PYTHON, unused_since: float | None = None) -> Known:
    return Known(SandboxId(name), kind, NEEDS[kind], Stage.HELD, 0.0, tenant, unused_since=unused_since)


def making(name: str, kind: Kind = PYTHON, tenant: TenantName | None = None, claim: int | None = None) -> Known:
    return Known(SandboxId(name), kind, NEEDS[kind], Stage.MAKING, 0.0, tenant, claim)


def test_a_warm_one_is_given_at_once_and_the_oldest_first() -> None:
    known = [warm("new", since=2.0), warm("old", since=1.0)]
    targets = {PYTHON: (2, ONE)}
    found = plan(Snapshot(0.0, Bounds(), [waits(1, ANNE)], known, targets=targets))
    assert found.decisions == (Give(1, SandboxId("old")), Make(PYTHON))
    assert found.waits == {}


def test_without_a_warm_one_a_sandbox_is_made_for_the_claim_or_promised_if_it_is_on_its_way() -> None:
    found = plan(Snapshot(0.0, Bounds(), [waits(1, ANNE), waits(2, BERT)], [making("a")]))
    assert found.decisions == (Promise(SandboxId("a"), 1), Make(PYTHON, 2))
    assert found.waits == {1: Wait("start", 0), 2: Wait("start", 0)}


def test_a_warm_one_goes_to_whom_another_was_promised_and_that_one_to_the_next() -> None:
    known = [making("slow", tenant=ANNE, claim=1), warm("ready")]
    found = plan(Snapshot(0.0, Bounds(), [waits(1, ANNE), waits(2, BERT)], known))
    assert found.decisions == (
        Give(1, SandboxId("ready")),
        Promise(SandboxId("slow"), None),
        Promise(SandboxId("slow"), 2),
    )


def test_what_was_made_for_somebody_is_given_to_nobody_else() -> None:
    known = [replace(warm("a"), claim=1), making("b", tenant=BERT, claim=2)]
    found = plan(Snapshot(0.0, Bounds(), [waits(2, BERT), waits(1, ANNE)], known))
    assert found.decisions == (Give(1, SandboxId("a")),)
    assert found.waits == {2: Wait("start", 0)}


def test_what_was_made_for_somebody_who_left_is_the_pools() -> None:
    found = plan(Snapshot(0.0, Bounds(), [], [making("a", tenant=ANNE, claim=1)], targets={PYTHON: (1, ONE)}))
    assert found.decisions == (Promise(SandboxId("a"), None),)


def test_tenants_take_turns_by_what_they_hold() -> None:
    queue = [waits(1, ANNE), waits(2, ANNE), waits(3, ANNE), waits(4, BERT), waits(5, CARL)]
    machine = Bounds(memory_bytes=4_000)
    found = plan(Snapshot(0.0, machine, queue, [held("c", CARL)], served={CARL: 1}))
    assert found.decisions == (Make(PYTHON, 1), Make(PYTHON, 4), Make(PYTHON, 5))
    assert found.waits[2] == Wait("capacity", 0)
    assert found.waits[3] == Wait("capacity", 1)


def test_a_tenant_with_twice_the_weight_gets_twice_as_much() -> None:
    queue = [waits(n, tenant) for n, tenant in enumerate([ANNE] * 6 + [BERT] * 6)]
    machine, quotas = Bounds(memory_bytes=6_000), {ANNE: Bounds(weight=2.0)}
    made = plan(Snapshot(0.0, machine, queue, quotas=quotas)).decisions
    assert [decision.claim < 6 for decision in made if isinstance(decision, Make) and decision.claim is not None].count(
        True
    ) == 4


def test_what_a_tenant_has_on_other_nodes_counts_for_its_turn_and_not_for_the_room_here() -> None:
    queue, machine = [waits(1, ANNE), waits(2, ANNE), waits(3, BERT), waits(4, BERT)], Bounds(memory_bytes=2_000)
    elsewhere, together = {ANNE: Need(2, 2_000, 2.0)}, Bounds(memory_bytes=10_000)
    found = plan(Snapshot(0.0, machine, queue, elsewhere=elsewhere, together=together))
    assert found.decisions == (Make(PYTHON, 3), Make(PYTHON, 4))
    heavy = {ANNE: Bounds(weight=10.0)}
    found = plan(Snapshot(0.0, machine, queue, quotas=heavy, elsewhere=elsewhere, together=together))
    assert found.decisions == (Make(PYTHON, 3), Make(PYTHON, 1)), "a tenth of it counts"
    alone = plan(Snapshot(0.0, machine, queue))
    assert plan(Snapshot(0.0, machine, queue, together=machine)) == alone
    assert alone.decisions == (Make(PYTHON, 1), Make(PYTHON, 3))


def test_nothing_is_evicted_for_a_tenant_that_has_as_much_elsewhere() -> None:
    known = [held("a", BERT, unused_since=0.0), held("b", BERT, unused_since=0.0)]
    here = Snapshot(99.0, Bounds(sandboxes=2), [waits(1, ANNE)], known, evict_after=60.0)
    assert plan(here).decisions == (End(SandboxId("a"), evicted=True),)
    together = Bounds(sandboxes=4)
    assert plan(replace(here, elsewhere={ANNE: Need(1)}, together=together)).decisions == ()


def test_a_quota_holds_up_its_own_tenant_alone() -> None:
    quotas = {ANNE: Bounds(sandboxes=1), BERT: Bounds(memory_bytes=500), CARL: Bounds(cpus=0.5)}
    queue = [waits(1, ANNE), waits(2, ANNE), waits(3, BERT), waits(4, CARL), waits(5, TenantName("dora"))]
    found = plan(Snapshot(0.0, Bounds(), queue, [held("a", ANNE)], quotas=quotas))
    assert found.decisions == (Make(PYTHON, 5),)
    assert found.waits == {
        1: Wait("sandboxes", 0),
        2: Wait("sandboxes", 1),
        3: Wait("memory", 0),
        4: Wait("cpu", 0),
        5: Wait("start", 0),
    }


def test_whoever_is_next_is_waited_for_and_what_is_warm_is_given_meanwhile() -> None:
    machine = Bounds(memory_bytes=6_000)
    known = [held("a", CARL), held("b", CARL), held("c", CARL), warm("w")]
    queue = [waits(1, ANNE, LARGE), waits(2, BERT)]
    found = plan(Snapshot(0.0, machine, queue, known))
    assert found.decisions == (End(SandboxId("w")),), "the warm one makes room for who is next"
    small = plan(Snapshot(0.0, Bounds(memory_bytes=4_000), [waits(1, ANNE, LARGE), waits(2, BERT)], known))
    assert Make(PYTHON, 2) not in small.decisions, "nobody small overtakes"
    assert small.waits[1] == Wait("capacity", 0)


def test_room_that_is_coming_free_is_waited_for() -> None:
    known = [Known(SandboxId("e"), PYTHON, ONE, Stage.ENDING, 0.0), warm("w", LARGE)]
    found = plan(Snapshot(0.0, Bounds(memory_bytes=5_000), [waits(1, ANNE)], known, targets={LARGE: (1, FOUR)}))
    assert found.decisions == ()
    assert found.waits == {1: Wait("capacity", 0)}


def test_idle_sandboxes_are_evicted_only_by_the_written_policy() -> None:
    machine, queue = Bounds(sandboxes=3), [waits(1, ANNE)]
    known = [held("a", BERT, unused_since=50.0), held("b", BERT, unused_since=10.0), held("c", CARL, unused_since=0.0)]

    def evicted(now: float, after: float | None = 60.0) -> list[str]:
        decisions = plan(Snapshot(now, machine, queue, known, evict_after=after)).decisions
        return [each.sandbox for each in decisions if isinstance(each, End) and each.evicted]

    assert evicted(1_000.0, after=None) == []
    assert evicted(60.0) == [], "of who would have less than the one who waits, nothing is taken"
    assert evicted(70.0) == ["b"], "unused for long enough, and the longest of its tenant's"
    busy = [replace(each, unused_since=None) for each in known]
    assert plan(Snapshot(1_000.0, machine, queue, busy, evict_after=1.0)).decisions == ()
    mine = [replace(each, tenant=ANNE) for each in known]
    assert plan(Snapshot(1_000.0, machine, queue, mine, evict_after=1.0)).decisions == ()


def test_pools_are_filled_with_what_is_left_and_trimmed() -> None:
    targets = {PYTHON: (3, ONE)}
    found = plan(Snapshot(0.0, Bounds(memory_bytes=2_500), [], [warm("w")], targets=targets))
    assert found.decisions == (Make(PYTHON),)
    found = plan(Snapshot(0.0, Bounds(), [], [warm("w")], targets=targets, making_at_once=1))
    assert found.decisions == (Make(PYTHON),)
    known = [warm("a", since=1.0), warm("b", since=2.0)]
    assert plan(Snapshot(0.0, Bounds(), [], known, targets={PYTHON: (1, ONE)})).decisions == (End(SandboxId("a")),)


def test_what_was_adopted_and_whose_notebook_is_not_open_yet_takes_its_room() -> None:
    adopted = replace(held("a", ANNE), tenant=None)
    found = plan(Snapshot(0.0, Bounds(memory_bytes=1_500), [waits(1, ANNE)], [adopted]))
    assert found.decisions == ()
    assert found.waits[1].reason == "capacity"


def test_for_a_pool_that_pauses_nothing_is_made_and_nothing_ended() -> None:
    """Neither for what it lacks nor for what it is just giving away; claims are served as ever."""
    known, targets = [warm("a", since=1.0), warm("b", since=2.0)], {PYTHON: (2, ONE)}
    found = plan(Snapshot(0.0, Bounds(), [waits(1, ANNE)], known, targets=targets, pausing=[PYTHON]))
    assert found.decisions == (Give(1, SandboxId("a")),)
    found = plan(Snapshot(0.0, Bounds(), [waits(1, ANNE)], [], targets=targets, pausing=[PYTHON]))
    assert found.decisions == (Make(PYTHON, 1),)


def test_an_outdated_one_is_replaced_and_given_to_nobody() -> None:
    targets = {PYTHON: (1, ONE)}
    found = plan(Snapshot(0.0, Bounds(), [waits(1, ANNE)], [warm("w", outdated=True)], targets=targets))
    assert found.decisions == (End(SandboxId("w")), Make(PYTHON, 1), Make(PYTHON))


TENANTS = [ANNE, BERT, CARL]
QUOTAS = {
    ANNE: Bounds(sandboxes=3),
    BERT: Bounds(memory_bytes=6_000, weight=2.0),
    CARL: Bounds(cpus=4.0),
}
MACHINE = Bounds(sandboxes=9, memory_bytes=16_000)


class Yard(RuleBasedStateMachine):
    """Does what plans say, while claims come and go, sandboxes come up, fail and end."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.waiting: dict[int, Waiting] = {}
        self.places: dict[SandboxId, Known] = {}
        self.given: dict[SandboxId, int] = {}
        self.ended: dict[int, str] = {}
        self.asked = 0
        self.served: dict[TenantName, int] = {}
        self.count = 0
        self.now = 0.0
        self.targets = {PYTHON: (1, ONE)}

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.now,
            MACHINE,
            list(self.waiting.values()),
            list(self.places.values()),
            quotas=QUOTAS,
            served=self.served,
            targets=self.targets,
            making_at_once=4,
            evict_after=20.0,
        )

    def act(self) -> None:
        """Carries plans out until one has nothing more to do."""
        for _ in range(50):
            before = self.snapshot()
            found = plan(before)
            for decision in found.decisions:
                self.carry_out(decision)
            if not found.decisions:
                assert set(found.waits) == set(self.waiting)
                return
        raise AssertionError("plans do not come to rest")

    def carry_out(self, decision: Give | Make | Promise | End) -> None:
        if isinstance(decision, Give):
            known = self.places[decision.sandbox]
            assert known.stage is Stage.WARM
            assert decision.sandbox not in self.given, "no sandbox is ever given twice"
            waiting = self.waiting.pop(decision.claim)
            assert waiting.kind == known.kind
            self.given[decision.sandbox] = decision.claim
            self.ended[decision.claim] = "granted"
            self.places[decision.sandbox] = replace(
                known, stage=Stage.HELD, tenant=waiting.tenant, claim=None, unused_since=self.now
            )
            self.serve(waiting.tenant)
        elif isinstance(decision, Make):
            sandbox_id = SandboxId(f"s{next(self.numbers)}")
            tenant = self.waiting[decision.claim].tenant if decision.claim is not None else None
            need = NEEDS[decision.kind]
            self.places[sandbox_id] = Known(
                sandbox_id, decision.kind, need, Stage.MAKING, self.now, tenant, decision.claim
            )
            if tenant is not None:
                self.serve(tenant)
        elif isinstance(decision, Promise):
            known = self.places[decision.sandbox]
            tenant = self.waiting[decision.claim].tenant if decision.claim is not None else None
            self.places[decision.sandbox] = replace(known, tenant=tenant, claim=decision.claim)
        else:
            known = self.places[decision.sandbox]
            if decision.evicted:
                assert known.stage is Stage.HELD
                assert known.unused_since is not None
                assert self.now - known.unused_since >= 20.0
            else:
                assert known.stage is Stage.WARM
            self.places[decision.sandbox] = replace(known, stage=Stage.ENDING)

    def serve(self, tenant: TenantName) -> None:
        self.count += 1
        self.served[tenant] = self.count

    def pick(self, stage: Stage, index: int) -> Known:
        found = [known for known in self.places.values() if known.stage is stage]
        return found[index % len(found)]

    @initialize()
    def begin(self) -> None:
        self.act()

    @rule(tenant=st.sampled_from(TENANTS), kind=st.sampled_from([PYTHON, PYTHON, LARGE]))
    def ask(self, tenant: TenantName, kind: Kind) -> None:
        claim = next(self.numbers)
        self.asked += 1
        self.waiting[claim] = waits(claim, tenant, kind)
        self.act()

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 20))
    def give_up(self, index: int) -> None:
        claim = list(self.waiting)[index % len(self.waiting)]
        del self.waiting[claim]
        self.ended[claim] = "cancelled"
        self.act()

    @precondition(lambda self: any(known.stage is Stage.MAKING for known in self.places.values()))
    @rule(index=st.integers(0, 20))
    def come_up(self, index: int) -> None:
        known = self.pick(Stage.MAKING, index)
        waited = known.claim in self.waiting
        self.places[known.sandbox_id] = replace(known, stage=Stage.WARM, tenant=None)
        self.act()
        assert not waited or self.given[known.sandbox_id] == known.claim, "what was made for somebody is theirs"

    @precondition(lambda self: any(known.stage is Stage.MAKING for known in self.places.values()))
    @rule(index=st.integers(0, 20))
    def fail(self, index: int) -> None:
        known = self.pick(Stage.MAKING, index)
        del self.places[known.sandbox_id]
        if known.claim in self.waiting:
            assert known.claim is not None
            del self.waiting[known.claim]
            self.ended[known.claim] = "refused"
        self.act()

    @precondition(lambda self: any(known.stage is Stage.HELD for known in self.places.values()))
    @rule(index=st.integers(0, 20))
    def let_go(self, index: int) -> None:
        known = self.pick(Stage.HELD, index)
        self.places[known.sandbox_id] = replace(known, stage=Stage.ENDING)
        self.act()

    @precondition(lambda self: any(known.stage is Stage.ENDING for known in self.places.values()))
    @rule(index=st.integers(0, 20))
    def is_gone(self, index: int) -> None:
        del self.places[self.pick(Stage.ENDING, index).sandbox_id]
        self.act()

    @rule(seconds=st.floats(0.0, 15.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.act()

    @invariant()
    def bounds_hold(self) -> None:
        def used(*stages: Stage, tenant: TenantName | None = None) -> Need:
            total = Need(0)
            for known in self.places.values():
                if known.stage in stages and (tenant is None or known.tenant == tenant):
                    total += known.need
            return total

        assert not MACHINE.exceeded(used(*Stage))
        for tenant in TENANTS:
            assert not QUOTAS[tenant].exceeded(used(Stage.HELD, Stage.MAKING, tenant=tenant)), tenant
        assert sum(known.stage is Stage.MAKING for known in self.places.values()) <= 4

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert len(self.waiting) + len(self.ended) == self.asked

    def teardown(self) -> None:
        """Whatever has happened: once sandboxes come up and end, everybody gets one."""
        self.targets = {}
        for _ in range(10 * (self.asked + 10)):
            if not self.waiting:
                break
            for known in list(self.places.values()):
                if known.stage is Stage.MAKING:
                    self.places[known.sandbox_id] = replace(known, stage=Stage.WARM, tenant=None)
                elif known.stage is Stage.ENDING:
                    del self.places[known.sandbox_id]
            self.act()
            for known in list(self.places.values()):
                if known.stage is Stage.HELD:
                    self.places[known.sandbox_id] = replace(known, stage=Stage.ENDING)
            self.act()
        assert not self.waiting, "every request ends"


Yard.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestYard = Yard.TestCase


def test_each_tenant_gets_its_fair_share_while_all_of_them_want_more() -> None:
    """Twenty tenants, each with more claims than it can have; sandboxes end after different times."""
    tenants = [TenantName(f"t{number}") for number in range(20)]
    claims = itertools.count(1)
    waiting = [waits(next(claims), tenant) for number, tenant in enumerate(tenants) for _ in range(1 + number % 3)]
    held_by: dict[SandboxId, tuple[Known, int]] = {}
    seconds = dict.fromkeys(tenants, 0)
    served: dict[TenantName, int] = {}
    count = 0
    names = itertools.count(1)
    for now in range(4_000):
        for sandbox_id, (_, until) in list(held_by.items()):
            if until <= now:
                known, _ = held_by.pop(sandbox_id)
                assert known.tenant is not None
                waiting.append(waits(next(claims), known.tenant))
        found = plan(
            Snapshot(float(now), Bounds(sandboxes=12), waiting, [k for k, _ in held_by.values()], served=served)
        )
        asked = {each.claim: each for each in waiting}
        for decision in found.decisions:
            assert isinstance(decision, Make)
            assert decision.claim is not None
            each = asked[decision.claim]
            waiting.remove(each)
            count += 1
            served[each.tenant] = count
            name = SandboxId(f"s{next(names)}")
            held_by[name] = held(name, each.tenant), now + 5 + (count * 7) % 11
        for known, _ in held_by.values():
            assert known.tenant is not None
            seconds[known.tenant] += 1
    fair = sum(seconds.values()) / len(tenants)
    assert min(seconds.values()) >= 0.8 * fair
