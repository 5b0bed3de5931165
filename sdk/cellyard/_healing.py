"""How long a call goes on trying when the connection breaks. Pure: time comes in as a number."""

from __future__ import annotations

from dataclasses import dataclass

RECONNECT_S = 30.0
"""A call is retried for this long after the connection broke."""

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25


@dataclass(slots=True)
class Healing:
    """One call's attempts: when the connection broke, and how long to wait before the next."""

    budget_s: float = RECONNECT_S
    broken_at: float | None = None
    _pause: float = _FIRST_PAUSE_S

    def next_pause(self, now: float) -> float | None:
        """Seconds to wait before trying again; None when the budget is spent."""
        if self.broken_at is None:
            self.broken_at = now
        left = self.broken_at + self.budget_s - now
        if left <= 0:
            return None
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE_S)
        return min(pause, left)

    def healed(self) -> None:
        """Something came through: the next break starts anew."""
        self.broken_at = None
        self._pause = _FIRST_PAUSE_S
