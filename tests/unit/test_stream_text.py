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


@given(st.lists(st.text(alphabet="abcd", max_size=6), min_size=1, max_size=8))
@example(["abcd", "", "x"])
def test_what_follows_a_return_overwrites_what_was_there(parts: list[str]) -> None:
    shown = ""
    for part in parts:
        shown = part + shown[len(part) :]
    assert apply_controls("\r".join(parts)) == shown


def test_many_returns_over_a_long_line_are_shown_as_soon_as_few() -> None:
    # Were the line copied for each, this would move terabytes.
    assert apply_controls("x" * 1_000_000 + "\rab" * 1_000_000) == "ab" + "x" * 999_998
