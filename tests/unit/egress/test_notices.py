"""How many denials are told."""

from __future__ import annotations

from cellyard_controller.egress.notices import AT_MOST, WINDOW_S, Notices
from cellyard_controller.egress.targets import NOT_LISTED, Denial


def denial(number: int) -> Denial:
    return Denial(f"host{number}.test", 443, NOT_LISTED)


def test_the_same_denial_is_told_once_a_minute() -> None:
    notices = Notices()
    assert notices.worth_telling(denial(1), 0.0)
    assert not notices.worth_telling(denial(1), WINDOW_S - 1)
    assert notices.worth_telling(denial(1), WINDOW_S)


def test_a_flood_of_different_ones_is_cut() -> None:
    notices = Notices()
    told = [notices.worth_telling(denial(number), 0.001 * number) for number in range(10_000)]
    assert told == [True] * AT_MOST + [False] * (10_000 - AT_MOST)
    assert notices.worth_telling(denial(1), WINDOW_S + 1)
