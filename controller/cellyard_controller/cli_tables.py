"""What the operator's commands print in columns: aligned, one thing a line, and with headings on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime


def visible(text: str) -> str:
    """The text with every character that does not print written out, so that no name does something to a terminal."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode("ascii")
        for each in text
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows: nothing is cut, what is missing is `-`, and only a terminal gets headings."""
    texts = [["-" if value in (None, "") else visible(str(value)) for value in row] for row in rows]
    if texts and sys.stdout.isatty():
        texts.insert(0, [column.upper() for column in columns])
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def moment(at: float | None) -> str:
    """A moment in RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else "never"
