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
    """Used as a context by what must not be broken off: SIGINT on the main thread then waits for its end.

    Handlers of other signals, which the user may have set, may still raise anywhere, even at the end of the context.
    So it is the stack that tells whether it goes on.
    """

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._act: Callable[[FrameType | None], None] = raise_interrupt
        self._protected: FrameType | None = None
        self._waits = False

    def take(self, act: Callable[[FrameType | None], None] = raise_interrupt) -> None:
        """From now on SIGINT has this effect; `act` is called with the frame that it interrupts."""
        self._act = act
        self._waits = False
        signal.signal(signal.SIGINT, self._handle)

    def ignore(self) -> None:
        """From now on it has none."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._waits = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._protected is not None and _is_on_stack(self._protected, frame):
            self._waits = True
        else:
            self._act(frame)

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            frame = sys._getframe(1)
            if self._protected is None or not _is_on_stack(self._protected, frame):
                self._protected = frame

    def __exit__(self, *raised: object) -> None:
        if threading.get_ident() == self._main and self._protected is sys._getframe(1):
            self._protected = None
            if self._waits:
                self._waits = False
                self._act(sys._getframe(1))


def _is_on_stack(frame: FrameType, above: FrameType | None) -> bool:
    while above is not None:
        if above is frame:
            return True
        above = above.f_back
    return False
