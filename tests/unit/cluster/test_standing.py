"""What follows from a lease's end and the time, and which nodes count as lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.cluster import sightings
from cellyard_controller.cluster.leases import Node
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.sightings import Sighting
from cellyard_controller.cluster.standing import Standing, Terms, changes_in, standing

TERMS = Terms(9.0)
ORDER = [Standing.IN_FORCE, Standing.HALF, Standing.LOST]


@pytest.mark.parametrize(
    ("left", "stands"),
    [
        (9.0, Standing.IN_FORCE),
        (4.6, Standing.IN_FORCE),
        (4.5, Standing.HALF),
        (2.3, Standing.HALF),
        (2.25, Standing.LOST),
        (0.0, Standing.LOST),
        (-100.0, Standing.LOST),
    ],
)
def test_a_lease_stands_by_what_is_left_of_it(left: float, stands: Standing) -> None:
    assert standing(1000.0, 1000.0 + left, TERMS) is stands


@given(st.floats(0.5, 60), st.floats(-5, 60))
def test_the_next_change_is_told_exactly_and_is_for_the_worse(lease: float, left: float) -> None:
    terms = Terms(lease)
    now, wait = standing(0.0, left, terms), changes_in(0.0, left, terms)
    if now is Standing.LOST:
        assert wait == 0.0
        return
    just_before, then = standing(wait - 1e-6, left, terms), standing(wait + 1e-6, left, terms)
    assert just_before is now
    assert ORDER.index(then) == ORDER.index(now) + 1


def test_one_renewal_may_fail_without_notice_and_its_successor_has_time() -> None:
    assert 2 * TERMS.renew_every_s < TERMS.lease_s / 2
    # One that gets no answer is given up early enough for the next to be answered before the lease counts as lost.
    assert TERMS.renew_every_s + TERMS.attempt_s + TERMS.retry_s < TERMS.lease_s - TERMS.margin_s


def node(name: str, expires_at: float, now: float, state: NodeState = NodeState.SERVING, fence: int = 1) -> Node:
    return Node(name, "id", fence, "", state, expires_at, expires_at - now, "{}")


@given(st.floats(-3600, 3600), st.integers(3, 40))
def test_a_database_whose_clock_jumps_costs_no_living_node_its_lease(jump: float, when: int) -> None:
    """The nodes renew every fifth of a lease; at some moment the database's clock is another one."""
    seen: dict[str, Sighting] = {}
    expires_at = 0.0
    for step in range(60):
        mine = step * TERMS.renew_every_s
        theirs = mine + (jump if step >= when else 0.0)
        if step != when:  # the worst case: the jump is seen before the renewal
            expires_at = theirs + TERMS.lease_s
        nodes = [node("a", expires_at, theirs), node("me", theirs + 1, theirs)]
        seen = sightings.look(seen, nodes, mine)
        assert not sightings.overdue(seen, nodes, mine, TERMS, "me")


@given(st.floats(0, 1), st.floats(0, 3600))
def test_a_node_that_died_is_overdue_at_the_first_look_after_its_lease(phase: float, started: float) -> None:
    """`phase`: how long before this node's look the other one renewed for the last time, in renewals."""
    died, every = started, TERMS.renew_every_s
    seen: dict[str, Sighting] = {}
    at = died + phase * every
    while True:
        nodes = [node("a", died + TERMS.lease_s, at)]
        seen = sightings.look(seen, nodes, at)
        if found := sightings.overdue(seen, nodes, at, TERMS, "me"):
            assert [each.name for each in found] == ["a"]
            assert 0 <= at - (died + TERMS.lease_s) <= every
            return
        assert at < died + TERMS.lease_s + every
        at += every


@pytest.mark.parametrize(
    ("state", "name", "found"),
    [
        (NodeState.SERVING, "a", True),
        (NodeState.DRAINING, "a", True),
        (NodeState.AWAY, "a", True),
        (NodeState.LOST, "a", False),
        (NodeState.SERVING, "me", False),
    ],
)
def test_whose_lease_is_looked_at(state: NodeState, name: str, found: bool) -> None:
    nodes = [node(name, 0.0, 100.0, state)]
    seen = sightings.look({}, nodes, 100.0)
    assert sightings.overdue(seen, nodes, 100.0, TERMS, "me") == []  # seen for the first time
    later = 100.0 + TERMS.patience_s
    seen = sightings.look(seen, nodes, later)
    assert [each.name for each in sightings.overdue(seen, nodes, later, TERMS, "me")] == (["a"] if found else [])


def test_a_name_that_was_taken_anew_is_a_new_sighting() -> None:
    seen = sightings.look({}, [node("a", 50.0, 100.0)], 100.0)
    seen = sightings.look(seen, [node("a", 50.0, 200.0, fence=2)], 200.0)
    assert seen["a"].since == 200.0
