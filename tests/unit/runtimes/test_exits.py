"""Each end is told once, whether an event or only a comparison shows it."""

from __future__ import annotations

from cellyard_controller.runtimes import Instance
from cellyard_controller.runtimes.docker.exits import Exits


def listed(instance_id: str, *, running: bool = False, exit_code: int | None = None) -> Instance:
    return Instance(instance_id, f"sb-{instance_id}", "controller-1", running, exit_code)


def test_an_end_that_an_event_told_is_not_told_again() -> None:
    exits = Exits()
    exits.started("a")
    assert exits.died("a")
    assert not exits.died("a")
    assert exits.compare(exits.alive(), [listed("a", exit_code=0)]) == []


def test_an_end_without_an_event_is_found_in_the_list() -> None:
    exits = Exits()
    exits.started("a")
    assert exits.compare(exits.alive(), [listed("a", exit_code=137)]) == ["a"]
    assert exits.compare(exits.alive(), [listed("a", exit_code=137)]) == []


def test_what_vanished_has_ended() -> None:
    exits = Exits()
    exits.started("a")
    assert exits.compare(exits.alive(), []) == ["a"]
    assert exits.compare(exits.alive(), []) == []


def test_ends_before_the_first_look_are_told() -> None:
    assert Exits().compare(frozenset(), [listed("a", exit_code=1), listed("b", running=True)]) == ["a"]


def test_what_was_alive_at_a_look_and_is_gone_at_the_next_has_ended() -> None:
    exits = Exits()
    exits.compare(frozenset(), [listed("a", running=True)])
    assert exits.compare(exits.alive(), []) == ["a"]


def test_half_made_containers_have_not_ended() -> None:
    assert Exits().compare(frozenset(), [listed("a")]) == []


def test_what_starts_while_the_list_is_made_has_not_vanished() -> None:
    exits = Exits()
    before = exits.alive()
    exits.started("late")
    assert exits.compare(before, []) == []
    assert exits.alive() == {"late"}


def test_an_end_heard_of_before_the_start_returns_is_told_once() -> None:
    exits = Exits()
    assert exits.died("a")
    exits.started("a")
    assert exits.compare(exits.alive(), [listed("a", exit_code=1)]) == []
