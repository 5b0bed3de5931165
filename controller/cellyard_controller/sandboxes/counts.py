"""What happened to sandboxes since the controller's start."""

from __future__ import annotations

from cellyard_controller.clock import steady
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.tallies import Durations, Tally


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
        self.denials = Tally()
        """By reason: connections that the proxy refused to sandboxes."""

    def begun(self, template: str) -> None:
        """A sandbox is about to be made."""
        self.starts.add(template)

    def ready(self, created_at: float) -> None:
        """A sandbox of that age has a kernel now."""
        self.start_seconds.observe(steady() - created_at)

    def ended(self, template: str, reason: EndReason) -> None:
        """A sandbox is over."""
        self.ends.add(template, reason.value)
