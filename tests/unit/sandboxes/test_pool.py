"""The size of a pool, on claims that come at random."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellyard_controller.sandboxes.pool import REFILL_AFTER_S, Bounds, Demand, quantile


@dataclass
class Seen:
    """What a simulated pool came to, after its first five minutes."""

    hits: int = 0
    claims: int = 0
    idle: float = 0.0
    in_use: float = 0.0
    seconds: float = 0.0


def simulate(rate: float, lead_s: float, life_s: float, seed: int, bounds: Bounds, claims: int = 1_500) -> Seen:
    """Claims that come at this rate, each of which keeps its sandbox for about `life_s`."""
    chance = random.Random(seed)
    demand, seen = Demand(), Seen()
    warm, making, held, waiting = bounds.least, 0, 0, 0
    events: list[tuple[float, int, str]] = [(chance.expovariate(rate), 0, "claim")]
    number, now, steady_from = 1, 0.0, 300.0

    def later(after_s: float, what: str) -> None:
        nonlocal number
        heapq.heappush(events, (now + after_s, number, what))
        number += 1

    while seen.claims < claims:
        at, _, what = heapq.heappop(events)
        if now >= steady_from:
            seen.idle += warm * (at - now)
            seen.in_use += held * (at - now)
            seen.seconds += at - now
        now = at
        if what == "claim":
            demand.asked(now)
            later(REFILL_AFTER_S, "pause over")
            demand.claimed(now, hit=warm > 0)
            if now >= steady_from:
                seen.claims += 1
                seen.hits += warm > 0
            waiting += 1
            later(chance.expovariate(rate), "claim")
        elif what == "made":
            making -= 1
            warm += 1
            demand.made(lead_s)
        elif what == "ended":
            held -= 1
        while waiting and warm:
            waiting -= 1
            warm -= 1
            held += 1
            later(chance.expovariate(1 / life_s), "ended")
        target = demand.target(now, bounds, held)
        warm = min(warm, target)
        wanted = waiting if demand.pause(now) else target + waiting
        while warm + making < wanted:
            making += 1
            later(lead_s, "made")
    return seen


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(0.05, 3.0),
    lead_s=st.floats(0.2, 3.0),
    life_s=st.floats(15.0, 60.0),
    seed=st.integers(0, 10_000),
)
def test_steady_claims_nearly_always_find_a_warm_one_and_few_lie_idle(
    rate: float, lead_s: float, life_s: float, seed: int
) -> None:
    bounds = Bounds(least=2, most=64)
    seen = simulate(rate, lead_s, life_s, seed, bounds)
    assert seen.hits >= 0.95 * seen.claims
    # What is in use is an estimate: by chance it is some percent too high.
    assert seen.idle / seen.seconds <= 1.05 * max(bounds.least, 2 * seen.in_use / seen.seconds)


def test_a_pool_without_claims_has_its_least_size() -> None:
    demand = Demand()
    assert [demand.target(now, Bounds(3, 10), 0) for now in (0.0, 1.0, 1e6)] == [3, 3, 3]
    assert Demand().target(1e6, Bounds(0, 10), 0) == 0


def test_a_pool_grows_with_its_claims_up_to_its_bound_and_shrinks_later() -> None:
    demand = Demand()
    for number in range(200):
        demand.claimed(number * 0.1, hit=False)
    demand.made(5.0)
    demand.target(0.0, Bounds(1, 16), 100)
    assert demand.target(20.0, Bounds(1, 16), 100) == 16
    assert demand.target(50.0, Bounds(1, 16), 0) == 16, "one that is ended and made again costs more than one kept"
    assert demand.target(2_000.0, Bounds(1, 16), 0) == 1


def test_a_claim_holds_the_next_one_up_for_a_moment() -> None:
    demand = Demand()
    demand.asked(10.0)
    assert demand.pause(10.0) == REFILL_AFTER_S
    demand.asked(10.0 + REFILL_AFTER_S / 2)
    assert demand.pause(10.0 + REFILL_AFTER_S) == 0, "however many come"
    demand.failed(20.0)
    demand.asked(20.0)
    assert demand.pause(20.0) > REFILL_AFTER_S, "a claim shortens no pause after a failure"


def test_failures_make_the_pool_wait_longer_each_time_until_one_comes_up() -> None:
    demand = Demand()
    pauses = []
    for _ in range(6):
        demand.failed(0.0)
        pauses.append(demand.pause(0.0))
    assert pauses == [1.0, 2.0, 5.0, 15.0, 60.0, 60.0]
    assert demand.pause(61.0) == 0.0
    demand.made(1.0)
    demand.failed(100.0)
    assert demand.pause(100.0) == 1.0
    assert demand.failures == 7


def test_it_is_failing_until_one_comes_up_or_long_after_nothing_was_tried() -> None:
    demand = Demand()
    assert not demand.failing(0.0)
    for now in (0.0, 1.0, 3.0):
        demand.failed(now)
    assert demand.failing(3.0)
    assert demand.failing(3.0 + 5.0 + 59.0), "while the next one is being made too"
    assert not demand.failing(3.0 + 5.0 + 60.0)
    demand.made(1.0)
    assert not demand.failing(3.0)


@pytest.mark.parametrize(("mean", "number"), [(0.0, 1), (0.01, 1), (1.0, 5), (20.0, 32)])
def test_the_quantile_is_that_of_the_poisson_distribution(mean: float, number: int) -> None:
    assert quantile(mean) == number


def test_the_quantile_goes_on_where_the_sum_would_underflow() -> None:
    assert abs(quantile(500.0) - quantile(500.1)) <= 2
