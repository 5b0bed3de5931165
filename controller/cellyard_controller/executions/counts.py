"""What happened to executions since the controller's start."""

from __future__ import annotations

from cellyard_controller.executions.model import Execution
from cellyard_controller.tallies import Durations, Tally

_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)


class Counts:
    """Counted by the rooms."""

    def __init__(self) -> None:
        self.ends = Tally()
        """By end."""
        self.seconds = Durations(*_BOUNDS)
        """From the start in the kernel to the end."""
        self.wait_seconds = Durations(*_BOUNDS)
        """From the acceptance to the start in the kernel."""

    def ended(self, execution: Execution) -> None:
        """An execution has reached its end."""
        assert execution.end is not None
        self.ends.add(execution.end.value)
        if execution.started_at:
            self.wait_seconds.observe(execution.started_at - execution.accepted_at)
            self.seconds.observe(execution.ended_at - execution.started_at)
