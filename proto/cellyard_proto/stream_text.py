"""The text of a stream: as it comes, chunk by chunk, and as it is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

CONTROLS = re.compile(r"[\r\b]")
"""What makes a text look other than it was printed."""


class StreamText:
    """A text that goes on."""

    in_file = False
    """Whether it is too long to be held in memory."""

    def __init__(self) -> None:
        self._chunks: list[str] = []

    def append(self, chunk: str) -> None:
        """More of it."""
        self._chunks.append(chunk)

    def whole(self) -> str:
        """All of it, as it came."""
        if len(self._chunks) > 1:
            self._chunks = ["".join(self._chunks)]
        return self._chunks[0] if self._chunks else ""


def apply_controls(text: str) -> str:
    """Carriage returns and backspaces as JupyterLab shows them; everything else stays as it was printed.

    A carriage return goes back to the start of its line, and what follows overwrites what was there. A backspace
    removes the character before it on its line.
    """
    if CONTROLS.search(text) is None:
        return text
    return "\n".join(_apply_to_line(line) if CONTROLS.search(line) else line for line in text.split("\n"))


def apply_controls_to(pieces: Iterable[str]) -> Iterator[str]:
    """The same for a text that comes in pieces; of it, one line at a time is held."""
    line: list[str] = []
    for piece in pieces:
        lines, newline, rest = piece.rpartition("\n")
        if newline:
            line.append(lines + newline)
            yield apply_controls("".join(line))
            line = []
        if "\r" in rest:
            # Nobody sees again what a carriage return went back over: a progress bar is as long as it is wide.
            over, _, rest = rest.rpartition("\r")
            line = [apply_controls("".join([*line, over])), "\r"]
        line.append(rest)
    yield apply_controls("".join(line))


def _apply_to_line(line: str) -> str:
    ended_by_return = line.endswith("\r")
    shown = ""
    # From the last to the first: each shows what reaches beyond those after it. No text is copied for every return.
    for part in reversed((line.rstrip("\r") if ended_by_return else line).split("\r")):
        part = _apply_backspaces(part)
        if len(part) > len(shown):
            shown += part[len(shown) :]
    return shown


def _apply_backspaces(text: str) -> str:
    if "\b" not in text:
        return text
    kept: list[str] = []
    for char in text:
        if char != "\b":
            kept.append(char)
        elif kept:
            kept.pop()
    return "".join(kept)
