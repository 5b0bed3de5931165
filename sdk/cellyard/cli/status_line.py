"""One line below a run's output that tells how far it is; only on a terminal, and never between somebody's words.

It is erased before anything else is written, and drawn again once the cursor stands at the start of a line. So what
cells print comes out as it would without it, progress bars of their own included.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self, TextIO

from cellyard.cli.printing import on_terminal, span, visible

DRAWN_EVERY_S = 0.2
_ERASE = "\r\x1b[K"


class StatusLine:
    """Draws on stderr. Where that is no terminal, or one that cannot erase, nothing is ever drawn.

    A thread of its own keeps the time that it shows going; the lock is for whoever writes meanwhile.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._stream = sys.stderr
        self._drawing = wanted and on_terminal(self._stream) and os.environ.get("TERM", "dumb") != "dumb"
        self._lock = threading.RLock()
        self._text: Callable[[], str] | None = None
        self._drawn = False
        self._at_start = True
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._drawing:
            self._ticker = threading.Thread(target=self._tick, name="cellyard-status-line", daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        self.show(None)

    def show(self, text: Callable[[], str] | None) -> None:
        """What the line says from now on; None for no line."""
        with self._lock:
            self._text = text
            self._erase()
            self._draw()

    def write(self, target: TextIO, text: str) -> None:
        """Writes to stdout or stderr in the line's place, at once."""
        with self._lock:
            shared = self._drawing and on_terminal(target)
            if shared:
                self._erase()
            target.write(text)
            target.flush()
            if shared and text:
                self._at_start = text.endswith("\n")
                self._draw()

    def _tick(self) -> None:
        while not self._over.wait(DRAWN_EVERY_S):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if not self._drawing or self._text is None or not self._at_start:
            return
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            width = 0
        self._stream.write(_ERASE + visible(self._text())[: (width or 80) - 1])  # some terminals do not know theirs
        self._stream.flush()
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._drawn = False


def bar(fraction: float, width: int = 20) -> str:
    """A bar that is filled so far, in letters that stderr has."""
    full, rest = ("█", "░") if (sys.stderr.encoding or "").lower().startswith("utf") else ("#", "-")
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return full * filled + rest * (width - filled)


def since(moment: float) -> str:
    """How long it is since a moment of the monotonic clock, for people."""
    return span(time.monotonic() - moment)
