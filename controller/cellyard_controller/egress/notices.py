"""Which denials are told: hostile code can be denied a thousand times a second. Pure."""

from __future__ import annotations

from cellyard_controller.egress.targets import Denial

WINDOW_S = 60.0
AT_MOST = 20
"""Different denials of one sandbox that are told in a window."""


class Notices:
    """The denials of one sandbox that were told lately."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._told: set[Denial] = set()

    def worth_telling(self, denial: Denial, now: float) -> bool:
        """Whether this one is told: each once a minute, and no more than AT_MOST of them. `now` in seconds."""
        if now - self._since >= WINDOW_S:
            self._since = now
            self._told.clear()
        if denial in self._told or len(self._told) >= AT_MOST:
            return False
        self._told.add(denial)
        return True
