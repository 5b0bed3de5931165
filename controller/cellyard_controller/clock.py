"""Time that nobody can set: for how long something has lasted, and when it is due.

The wall clock is for what people are shown. It jumps: when a machine wakes up, or when it is corrected. Nothing may
end, be forgotten or wait longer for that.
"""

from __future__ import annotations

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Line:
    """How far the steady clock is ahead of the machine's own, which counts from its start."""

    ahead = time.time() - time.monotonic()


def steady() -> float:
    """Seconds since the epoch by the wall clock as it was at the data folder's first use since the machine's start.

    Goes on evenly ever since, over restarts of the controller too. Deadlines are moments of this clock, and are stored:
    a successor has to `go_on` with it.
    """
    return time.monotonic() + _Line.ahead


def go_on(stored: str | None) -> str:
    """Goes on with the clock that a predecessor has stored, or begins with the wall clock's time; what is to be stored.

    A machine that was started again counts from zero, and nothing but the wall clock says how long it was off.
    """
    boot = _BOOT_ID.read_text().strip()
    stored_boot, _, ahead = (stored or "").partition(" ")
    _Line.ahead = float(ahead) if stored_boot == boot else time.time() - time.monotonic()
    return f"{boot} {_Line.ahead!r}"


def agree(now: float) -> None:
    """Goes on from this moment: controllers that share a database take the time from it, so deadlines mean the same."""
    _Line.ahead = now - time.monotonic()


def shown(moment: float) -> float:
    """A moment of the steady clock as the wall clock has it now; the same while that does not jump."""
    return moment + round(time.time() - steady())
