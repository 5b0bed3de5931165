"""Requests a second: never more than the rate allows, never fewer, and the wait that is told is the right one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.ids import TenantName
from cellyard_controller.tenants.rates import LEAST_AT_ONCE, Bucket, Rates

ALICE, BOB = TenantName("alice"), TenantName("bob")


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 3), max_size=200))
def test_in_no_span_more_than_the_rate_and_what_may_come_at_once(rate: float, pauses: list[float]) -> None:
    bucket, now = Bucket(rate), 0.0
    taken: list[float] = []
    for pause in pauses:
        now += pause
        if not bucket.take(now):
            taken.append(now)
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], start=1):
            assert count <= max(rate, LEAST_AT_ONCE) + (end - start) * rate + 1e-6


@given(st.floats(0.1, 1000), st.integers(0, 50))
def test_who_waits_as_told_is_let_in_and_not_before(rate: float, more: int) -> None:
    bucket = Bucket(rate)
    at_once = 0
    while not (wait := bucket.take(0.0)):
        at_once += 1
    assert at_once == math.floor(max(rate, LEAST_AT_ONCE))
    assert 0 < wait <= 1 / rate + 1e-9
    assert bucket.take(wait * 0.9) > 0
    assert bucket.take(wait + 1e-9 + more) == 0


@given(st.floats(1, 100))
def test_a_clock_that_stands_or_goes_back_gives_nothing(rate: float) -> None:
    bucket = Bucket(rate)
    while not bucket.take(100.0):
        pass
    assert bucket.take(50.0) > 0
    assert bucket.take(50.0) > 0


def test_tenants_are_apart_and_a_new_rate_begins_anew() -> None:
    rates: dict[TenantName, float | None] = {ALICE: 5.0, BOB: None}
    buckets = Rates(rates.__getitem__)
    assert [buckets.take(ALICE, 0.0) for _ in range(6)][:5] == [0.0] * 5
    assert buckets.take(ALICE, 0.0) == pytest.approx(0.2)
    assert not any(buckets.take(BOB, 0.0) for _ in range(100))
    rates[ALICE] = 10.0
    assert not buckets.take(ALICE, 0.0)
    rates[ALICE] = None
    assert not any(buckets.take(ALICE, 0.0) for _ in range(100))
