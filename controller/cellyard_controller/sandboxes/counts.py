"""What happened to sandboxes since the controller's start."""

from __future__ import annotations

import time

from cellyard_controller.clock import steady
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.tallies import Durations, DurationsBy, Tally

WARM, COLD = "warm", "cold"


class Counts:
    """Counted by the supervisor."""

    def __init__(self) -> None:
        self.starts = Tally()
        """By template: sandboxes that were begun, whatever became of them."""
        self.ends = Tally()
        """By template and reason."""
        self.claims = Tally()
        """By template, and "warm" or "cold"."""
        self.start_seconds = Durations(0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120)
        """From the decision to a kernel that is ready."""
        self.claim_seconds = DurationsBy(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)
        """By "warm" or "cold": from asking for a sandbox to having it, waiting for others to let go included."""
        self.links = Tally()
        """By "first" or "again": connections of agents."""
        self.denials = Tally()
        """By reason: connections that the proxy refused to sandboxes."""

    def claimed(self, asked_at: float, *, found: bool) -> None:
        """Who asked at this monotonic time has a sandbox; `found`: one that was warm then."""
        self.claim_seconds.observe(time.monotonic() - asked_at, WARM if found else COLD)

    def linked(self, again: bool) -> None:
        """An agent has connected."""
        self.links.add("again" if again else "first")

    def begun(self, template: str) -> None:
        """A sandbox is about to be made."""
        self.starts.add(template)

    def ready(self, created_at: float) -> None:
        """A sandbox of that age has a kernel now."""
        self.start_seconds.observe(steady() - created_at)

    def ended(self, template: str, reason: EndReason) -> None:
        """A sandbox is over."""
        self.ends.add(template, reason.value)
