"""Counting: nothing is lost, whatever is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.tallies import Durations, Tally


def test_a_tally_counts_by_labels() -> None:
    tally = Tally()
    tally.add("a", "x")
    tally.add("a", "y", by=2)
    tally.add("a", "x")
    assert tally.read() == {("a", "x"): 2, ("a", "y"): 2}


def test_what_was_read_does_not_change_afterwards() -> None:
    tally = Tally()
    tally.add()
    before = tally.read()
    tally.add()
    assert (before, tally.read()) == ({(): 1}, {(): 2})


@given(st.lists(st.floats(0, 1e6)))
def test_each_duration_is_in_exactly_one_bucket(seconds: list[float]) -> None:
    durations = Durations(0.1, 1, 10)
    for each in seconds:
        durations.observe(each)
    spread = durations.read()
    assert spread.counts == (
        sum(each <= 0.1 for each in seconds),
        sum(0.1 < each <= 1 for each in seconds),
        sum(1 < each <= 10 for each in seconds),
        sum(each > 10 for each in seconds),
    )
    assert spread.total == sum(seconds, 0.0)


def test_a_clock_that_went_back_counts_as_no_time() -> None:
    durations = Durations(1)
    durations.observe(-5)
    assert (durations.read().counts, durations.read().total) == ((1, 0), 0.0)
