"""Carriage returns and backspaces in a text that comes in pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from cellyard_proto.stream_text import apply_controls, apply_controls_to

PIECES = st.lists(st.text(alphabet="ab\r\b\n", max_size=6), max_size=12)


@given(PIECES)
@example(["ab\r", "\r", "c", "\n"])
@example(["abc\r", "\b", "x\r\n"])
def test_it_is_shown_like_the_whole(pieces: list[str]) -> None:
    assert "".join(apply_controls_to(pieces)) == apply_controls("".join(pieces))


def test_of_a_progress_bar_its_last_state_is_held() -> None:
    bars = (f"\r{percent:3d} %" for percent in range(101))
    assert list(apply_controls_to(bars)) == ["100 %"]
