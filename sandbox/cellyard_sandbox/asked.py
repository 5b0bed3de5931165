"""Answers beside the cells: completion, inspection and history. Runs in the kernel."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ASKED_S = 15.0
"""For an answer: one that hangs would keep the next cell from starting."""


def answer(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it returns; where the user's own objects make it raise or take too long, an answer that says so."""
    try:
        with _alarm(ASKED_S):
            return ask()
    except Exception as failed:  # the user's objects raise what they like
        return {"status": "error", "ename": type(failed).__name__, "evalue": str(failed), "traceback": []}


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """TimeoutError in what takes longer. An alarm of the user's own rings later by what this took."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again, where the first one was caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
