"""What commands print: tables and text for people, JSON for programs.

Ids, labels, errors and reasons come from whoever made them. They are printed with what would do something to a terminal
written out, so that nobody's notebook can move the cursor or paint over somebody else's line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO


def visible(text: str, *, lines: bool = False) -> str:
    """The text with every character that does not print written out, as in `\\x1b`; with `lines` it keeps its lines."""
    kept = "\n\t" if lines else ""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in kept else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def on_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream (stdout) is a terminal; False for one that was closed."""
    stream = sys.stdout if stream is None else stream
    try:
        return stream.isatty()
    except ValueError:
        return False


def coloured(stream: TextIO) -> bool:
    """Whether colours are for who reads a stream: on a terminal, unless NO_COLOR or TERM says otherwise."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows: on a terminal under headings, in its width; elsewhere aligned, one a line, nothing cut, no headings.

    Times are ages on a terminal, RFC 3339 elsewhere. What is missing is `-`.
    """
    people = on_terminal()
    texts = [[_cell(value, people=people) for value in row] for row in rows]
    if people and texts:
        _draw(columns, texts)
        return
    widths = [max(map(len, column), default=0) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _draw(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(column.upper(), overflow="fold")
    for row in texts:
        drawn.add_row(*map(Text, row))
    Console(highlight=False).print(drawn)


def as_json(value: Any) -> None:
    """Prints a value as JSON, in several lines."""
    print(json.dumps(as_data(value), indent=2, default=str))


def as_line(value: Any) -> None:
    """Prints a value as JSON, in one line, at once."""
    print(json.dumps(as_data(value), default=str), flush=True)


def as_data(value: Any) -> Any:
    """What the SDK gives as JSON has it: objects by field, moments in RFC 3339, outputs as nbformat has them."""
    from cellyard.results import Output

    if isinstance(value, Output):
        return value.to_nbformat()
    if dataclasses.is_dataclass(value):
        return {field.name: as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): as_data(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(each) for each in value]
    return value


def span(seconds: float) -> str:
    """A time span for people, without blanks: 0.4s, 12s, 3m05s, 2h10m, 5d."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d"


def _cell(value: object, *, people: bool) -> str:
    match value:
        case None | "":
            return "-"
        case datetime() if people:
            return f"{span((datetime.now(UTC) - value).total_seconds())} ago"
        case datetime():
            return value.isoformat(timespec="seconds")
        case Mapping():
            return visible(",".join(f"{key}={each}" for key, each in value.items())) or "-"
    return visible(str(value))
