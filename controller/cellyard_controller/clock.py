"""Time that nobody can set: for how long something has lasted, and when it is due.

The wall clock is for what people are shown. It jumps: when a machine wakes up, or when it is corrected. Nothing may
end, be forgotten or wait longer for that.
"""

from __future__ import annotations

import time

_AHEAD = time.time() - time.monotonic()


def steady() -> float:
    """Seconds since the epoch by the wall clock as it was when this process began, going on evenly ever since.

    Deadlines are moments of this clock. They are stored too: a successor takes them for moments of its own.
    """
    return time.monotonic() + _AHEAD


def shown(moment: float) -> float:
    """A moment of the steady clock as the wall clock has it now; the same while that does not jump."""
    return moment + round(time.time() - steady())
