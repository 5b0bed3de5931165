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


def test_redirects_in_a_row_are_followed_more_and_more_slowly_and_not_for_ever() -> None:
    healing, now, pauses = Healing(30), 100.0, []
    while (pause := healing.next_hop(now)) is not None:
        pauses.append(pause)
        now += pause
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    healing.healed()
    assert healing.next_hop(now) == 0.0


def test_a_redirect_to_nobody_does_not_count_but_takes_time() -> None:
    healing, now, hops = Healing(30), 0.0, 0
    while (pause := healing.next_hop(now)) is not None:
        hops += 1
        now += pause
        pause = healing.next_pause(now)
        if pause is None:
            break
        now += pause
    assert hops > 100
    assert now == 30.0


def test_who_is_asked_to_wait_waits_from_the_second_time_on_and_not_for_long() -> None:
    healing = Healing(30)
    assert [healing.next_pause(0, 0.5) for _ in range(3)] == [0.02, 0.5, 0.5]
    assert healing.next_pause(0, 3600) == 2.0
    assert healing.next_pause(0) == 0.25
