"""What happened to executions since the controller's start."""

from __future__ import annotations

from cellyard_controller.executions.model import End, Execution
from cellyard_controller.ids import TenantName
from cellyard_controller.tallies import Durations, Tally

_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)
_REASONS = frozenset(
    (
        *("cancelled", "cell_deleted", "earlier_error", "interrupt", "start_timeout"),
        *("shutdown", "idle", "ttl", "oom", "exit", "evicted", "start_failed", "image_missing", "runtime_lost"),
        *("node_lost", "kernel_restarted", "capability_unavailable", "environment_failed", "quota_exceeded"),
    )
)
_LIMITS = {"start_timeout": "start_timeout", "oom": "memory"}


class Counts:
    """Counted by the rooms."""

    def __init__(self) -> None:
        self.ends = Tally()
        """By end."""
        self.seconds = Durations(*_BOUNDS)
        """From the start in the kernel to the end."""
        self.wait_seconds = Durations(*_BOUNDS)
        """From the acceptance to the start in the kernel."""
        self.cut_short = Tally()
        """By end and reason: what was lost or cancelled."""
        self.limits = Tally()
        """By what limit was reached."""
        self.by_tenant = Tally()
        """By tenant and end."""

    def truncated(self) -> None:
        """The output of an execution has reached its limit."""
        self.limits.add("output")

    def ended(self, execution: Execution, tenant: TenantName) -> None:
        """An execution has reached its end."""
        assert execution.end is not None
        self.ends.add(execution.end.value)
        self.by_tenant.add(tenant, execution.end.value)
        if execution.end in (End.LOST, End.CANCELLED):
            # An agent may say anything.
            self.cut_short.add(
                execution.end.value, execution.end_reason if execution.end_reason in _REASONS else "other"
            )
        limit = "timeout" if execution.end is End.TIMED_OUT else _LIMITS.get(execution.end_reason)
        if limit is not None:
            self.limits.add(limit)
        if execution.started_at:
            self.wait_seconds.observe(execution.started_at - execution.accepted_at)
            self.seconds.observe(execution.ended_at - execution.started_at)
