"""How long a call goes on trying when the connection breaks. Pure: time comes in as a number."""

from __future__ import annotations

from dataclasses import dataclass

RECONNECT_S = 30.0
"""A call is retried for this long after the connection broke."""

MAX_HOPS = 8
"""Redirects in a row that are followed: with their pauses, for as long as controllers may disagree after a loss."""

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25
_FIRST_HOP_PAUSE_S = 0.05
_LONGEST_ASKED_S = 2.0


@dataclass(slots=True)
class Healing:
    """One call's attempts: when the connection broke, and how long to wait before the next."""

    budget_s: float = RECONNECT_S
    broken_at: float | None = None
    _pause: float = _FIRST_PAUSE_S
    hops: int = 0
    """Redirects that were followed in a row."""

    @property
    def begun(self) -> bool:
        """Whether anything went wrong since something came through."""
        return self.broken_at is not None

    def next_pause(self, now: float, asked_s: float = 0.0) -> float | None:
        """Seconds to wait before trying again; None when the budget is spent.

        `asked_s`: what the controller has asked for. The first try comes at once all the same: it may be another
        controller that is asked then.
        """
        self.hops = 0  # nobody answered: those who have sent us there may say otherwise next time
        left = self._left(now)
        if left <= 0:
            return None
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE_S)
        if pause > _FIRST_PAUSE_S:
            pause = max(pause, min(asked_s, _LONGEST_ASKED_S))
        return min(pause, left)

    def next_hop(self, now: float) -> float | None:
        """Seconds to wait before following one more redirect in a row: none before the first, then twice as long each.

        None when there were too many, or the budget is spent.
        """
        left = self._left(now)
        self.hops += 1
        if self.hops > MAX_HOPS or left <= 0:
            return None
        return 0.0 if self.hops == 1 else min(_FIRST_HOP_PAUSE_S * 2 ** (self.hops - 2), left)

    def healed(self) -> None:
        """Something came through: the next break starts anew."""
        self.broken_at = None
        self._pause = _FIRST_PAUSE_S
        self.hops = 0

    def _left(self, now: float) -> float:
        if self.broken_at is None:
            self.broken_at = now
        return self.broken_at + self.budget_s - now
