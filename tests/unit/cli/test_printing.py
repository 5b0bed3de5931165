"""What commands print of what others have written."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard._display import without_ansi
from cellyard.cli import outcome, printing
from cellyard.results import ExecutionResult, Output, Usage


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text())
def test_nothing_that_is_shown_does_something_to_a_terminal(text: str) -> None:
    assert printing.visible(text).isprintable()
    assert all(each.isprintable() or each in "\n\t" for each in printing.visible(text, lines=True))


def test_what_prints_stays_as_it_is() -> None:
    assert printing.visible("größe 漢字 🙂") == "größe 漢字 🙂"
    assert printing.visible("\x1b[2J\x9b2J\u202e\x07") == "\\x1b[2J\\x9b2J\\u202e\\x07"
    assert printing.visible("two\nlines\x07", lines=True) == "two\nlines\\x07"


def test_sentences_of_ours_quote_others_without_their_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    outcome.say("notebook \x1b]0;title\x07 not found")
    assert capsys.readouterr().err == "cellyard: notebook \\x1b]0;title\\x07 not found\n"


def test_elsewhere_than_on_a_terminal_columns_are_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
    long = "n" * 300
    printing.table(("id", "at", "labels"), [("a", at, {}), (long, at, {"k": "v\x1b[0m"})])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"a{' ' * 299}  2024-02-29T12:00:00+00:00  -"
    assert second == f"{long}  2024-02-29T12:00:00+00:00  k=v\\x1b[0m"


def test_nothing_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    printing.table(("id",), [])
    assert capsys.readouterr().out == ""


def test_on_a_terminal_there_are_headings_and_nothing_is_lost_in_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    printing.table(("id", "at"), [("[bold]" + "x" * 50, datetime.now(UTC) - timedelta(seconds=90))])
    shown = terminal.getvalue()
    assert "ID" in shown.splitlines()[0]
    assert "1m30s" in shown
    assert shown.count("x") == 50
    assert "[bold]" in shown
    assert max(len(without_ansi(line)) for line in shown.splitlines()) <= 40


def test_a_terminal_that_knows_no_escapes_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    printing.table(("id",), [("a",)])
    assert terminal.getvalue().split() == ["ID", "a"]


def test_json_has_everything_in_a_form_that_programs_read() -> None:
    result = ExecutionResult(
        "cell-1",
        "exec-1",
        outputs=[Output("display_data", data={"image/png": b"\x89PNG"}, metadata={})],
        usage=Usage(0.5, 1024, 0.75),
        accepted_at=datetime(2024, 2, 29, tzinfo=UTC),
    )
    data = printing.as_data(result)
    assert data["usage"] == {"cpu_s": 0.5, "peak_memory_bytes": 1024, "wall_s": 0.75}
    assert data["accepted_at"] == "2024-02-29T00:00:00+00:00"
    assert data["outputs"] == [{"output_type": "display_data", "data": {"image/png": "iVBORw=="}, "metadata": {}}]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (59, "59s"), (185, "3m05s"), (7800, "2h10m"), (432000, "5d"), (-1, "0.0s")],
)
def test_spans_have_no_blanks(seconds: float, says: str) -> None:
    assert printing.span(seconds) == says
