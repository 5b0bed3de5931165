"""How long a call goes on trying."""

from __future__ import annotations

from cellyard._healing import Healing


def test_pauses_grow_to_half_a_second_and_end_with_the_budget() -> None:
    healing, now, pauses = Healing(30), 100.0, []
    while (pause := healing.next_pause(now)) is not None:
        pauses.append(pause)
        now += pause
    assert pauses[:6] == [0.02, 0.04, 0.08, 0.16, 0.25, 0.25]
    assert max(pauses) == 0.25
    assert now == 130.0


def test_the_clock_starts_at_the_first_break() -> None:
    healing = Healing(30)
    healing.next_pause(1000)
    assert healing.next_pause(1029.9) is not None
    assert healing.next_pause(1030) is None


def test_what_came_through_starts_it_anew() -> None:
    healing = Healing(30)
    healing.next_pause(0)
    healing.next_pause(20)
    healing.healed()
    assert healing.next_pause(40) == 0.02
    assert healing.next_pause(69) is not None
