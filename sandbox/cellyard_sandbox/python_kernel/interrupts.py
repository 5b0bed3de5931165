"""SIGINT: it hits the cell or nobody, and never breaks off what must not be."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType


def raise_interrupt(frame: FrameType | None) -> None:
    """What SIGINT does by default."""
    raise KeyboardInterrupt


class Interrupts:
    """Used as a context by what must not be broken off: SIGINT on the main thread then waits for its end."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._act: Callable[[FrameType | None], None] = raise_interrupt
        self._depth = 0
        self._waits = False

    def take(self, act: Callable[[FrameType | None], None] = raise_interrupt) -> None:
        """From now on SIGINT has this effect; `act` is called with the frame that it interrupts."""
        self._act = act
        signal.signal(signal.SIGINT, self._handle)

    def ignore(self) -> None:
        """From now on it has none."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._waits = True
        else:
            self._act(frame)

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *raised: object) -> None:
        if threading.get_ident() == self._main:
            self._depth -= 1
            if self._waits and not self._depth:
                self._waits = False
                self._act(sys._getframe(1))
