"""What happened to calls since the controller's start."""

from __future__ import annotations

import time

from cellyard_controller.errors import QuotaExceeded, Refused
from cellyard_controller.tallies import DurationsBy, Tally

OK, INTERNAL, GONE = "ok", "internal_error", "client_gone"
_CALLS = "calls"
"""What is used up where no quota is: how many calls may go on at a time."""


class Calls:
    """Counted where every call passes."""

    def __init__(self) -> None:
        self.outcomes = Tally()
        """By method and outcome: `ok`, the reason of a refusal, `client_gone`, `internal_error`."""
        self.quotas = Tally()
        """Refusals because something is used up, by what."""
        self.seconds = DurationsBy(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
        """By method: of calls that are answered once, from their begin to their answer."""
        self.open = 0
        """Calls that go on, streams among them."""

    def refused(self, refused: Refused) -> None:
        """A call was refused."""
        if isinstance(refused, QuotaExceeded):
            self.quotas.add(refused.details.get("quota", _CALLS))

    def answered(self, method: str, began: float) -> None:
        """A call that is answered once was, which began at this monotonic time."""
        self.seconds.observe(time.monotonic() - began, method)
