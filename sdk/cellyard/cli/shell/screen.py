"""What the shell shows: output as it comes, values, errors, and our own sentences."""

from __future__ import annotations

import os
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cellyard._display import without_ansi
from cellyard.cli import outcome, status_line
from cellyard.cli.printing import coloured

if TYPE_CHECKING:
    from cellyard import Output, Progress

_SHOW_AGAIN = "\x1b[0m\x1b[?25h"
"""Colours and a hidden cursor that code has left behind end with its cell."""


class Screen:
    """The terminal, while no prompt has it."""

    def __init__(self) -> None:
        self._line = status_line.StatusLine()
        self._stage = ""
        self._since = 0.0
        self._at_start = True
        self._escapes = False
        self._colours = coloured(sys.stdout)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Leaves the terminal's modes as they were found, however it ends."""
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        try:
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Meanwhile it may show steps that are under way."""
        self._stage = ""
        with self._line:
            yield
        self._line = status_line.StatusLine()

    def progress(self, progress: Progress) -> None:
        """A step of the kernel's start."""
        if progress.message != self._stage:
            self._stage, self._since = progress.message, time.monotonic()
        begun = self._since
        filled = "" if progress.fraction is None else f"  {status_line.bar(progress.fraction)} {progress.fraction:.0%}"
        self._line.show(lambda: f"{progress.message}{filled}  {status_line.since(begun)}")

    def started(self) -> None:
        """The cell runs: the terminal is its own."""
        self._line.show(None)

    def output(self, output: Output, count: int | None) -> None:
        """Something was shown."""
        match output.output_type:
            case "stream":
                self._write(output.text or "", error=output.name == "stderr")
            case "error":
                self._new_line()
                text = "\n".join(output.traceback or []) or str(output).rstrip("\n")
                self._write((text if self._colours else without_ansi(text)) + "\n", error=True)
            case kind:
                self._new_line()
                text = str(output).rstrip("\n")
                label = f"Out[{count}]: " if kind == "execute_result" and count else ""
                self._write(f"{label}{os.linesep if label and os.linesep in text else ''}{text}\n")
                for hint in _hints(output, count):
                    self.say(hint)

    def ended(self) -> None:
        """The cell has ended: the prompt gets a line of its own, and usual letters."""
        self._new_line()
        if self._escapes and self._colours:
            self._line.write(sys.stdout, _SHOW_AGAIN)
        self._escapes = False

    def say(self, message: str) -> None:
        """A sentence of ours."""
        self._new_line()
        self._line.write(sys.stderr, outcome.sentence(message))

    def _new_line(self) -> None:
        if not self._at_start:
            self._write("\n")

    def _write(self, text: str, *, error: bool = False) -> None:
        if not text:
            return
        self._escapes = self._escapes or "\x1b" in text
        self._line.write(sys.stderr if error else sys.stdout, text)
        self._at_start = text.endswith("\n")


def _hints(output: Output, count: int | None) -> list[str]:
    data = output.data or {}
    images = [(mime, content) for mime, content in data.items() if mime.startswith("image/")]
    return [
        f"{mime}, {len(content)} bytes: `:save {count} FILE.{mime.removeprefix('image/').partition('+')[0]}` writes it"
        for mime, content in images[:1]
        if count
    ]
