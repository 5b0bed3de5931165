"""The line that tells how far a run is: it must never stand between what cells print."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard.cli import status_line


class Shared(io.StringIO):
    """A terminal that stdout and stderr share."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def seen(raw: str) -> str:
    """What is left of the output once every erased line is gone."""
    return re.sub(r"\r\x1b\[K[^\n\r]*(?=\r\x1b\[K)|\r\x1b\[K", "", raw)


@given(st.lists(st.text(alphabet="ab\n%", max_size=6), max_size=12))
def test_what_cells_print_is_what_is_left_when_the_line_is_erased(pieces: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        terminal = Shared()
        patch.setattr("sys.stderr", terminal)
        patch.setenv("TERM", "xterm")
        line = status_line.StatusLine()
        line.show(lambda: "LINE")
        for piece in pieces:
            line.write(terminal, piece)
        line.show(None)
        raw = terminal.getvalue()
    assert seen(raw) == "".join(pieces)
    for at in re.finditer("LINE", raw):  # drawn only at the start of a line
        before = seen(raw[: at.start()] + "\r\x1b[K")
        assert not before or before.endswith("\n")


@pytest.mark.parametrize(("term", "terminal"), [("dumb", Shared()), ("xterm", io.StringIO())])
def test_nothing_is_drawn_in_a_pipe_or_where_nothing_can_be_erased(
    monkeypatch: pytest.MonkeyPatch, term: str, terminal: io.StringIO
) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", term)
    with status_line.StatusLine() as line:
        line.show(lambda: "LINE")
        line.write(terminal, "text\n")
    assert terminal.getvalue() == "text\n"


def test_what_others_wrote_is_shown_without_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Shared()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    line = status_line.StatusLine()
    line.show(lambda: "cell \x1b[2J\n")
    assert terminal.getvalue() == "\r\x1b[Kcell \\x1b[2J\\n"


def test_a_bar_is_as_long_as_it_is_said_to_be() -> None:
    assert [len(status_line.bar(each, 10)) for each in (-1, 0, 0.5, 1, 7)] == [10] * 5
