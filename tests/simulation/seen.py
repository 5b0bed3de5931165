"""What a simulation saw, and its figures."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from dataclasses import dataclass, field

from cellyard_controller.cluster.placement import Why
from tests.simulation.load import Size


@dataclass
class Seen:
    """What came of it."""

    size: Size
    place_us: array[float] = field(default_factory=lambda: array("d"))
    """Processor time of each placement, likewise of each plan; what others on the machine take is not in it."""
    place_clock_us: array[float] = field(default_factory=lambda: array("d"))
    """By the clock, the waits for a processor with it."""
    plan_us: array[float] = field(default_factory=lambda: array("d"))
    reasons: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    """Claims of kinds with a pool before the crowd: `hit` or `miss`; and what became of all."""
    waits_s: array[float] = field(default_factory=lambda: array("d"))
    """Before the crowd, from asking to having it, of tenants without a quota."""
    quota_waits_s: array[float] = field(default_factory=lambda: array("d"))
    """Likewise of those with one, who wait for themselves too."""
    quota_overshoot: float = 0.0
    """The most that a tenant had beyond its quota, as a part of it."""
    overshoots: int = 0
    """Tenants that ever had more than their quota."""
    limited: int = 0
    jain: list[float] = field(default_factory=list)
    least_to_most: list[float] = field(default_factory=list)
    utilisation: list[float] = field(default_factory=list)
    lost_sandboxes: int = 0
    moved: int = 0
    plans: int = 0
    reports: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    def table(self) -> dict[str, float | int]:
        """Figures by name."""
        placing, by_clock, planning = sorted(self.place_us), sorted(self.place_clock_us), sorted(self.plan_us)
        waits, quota_waits = sorted(self.waits_s), sorted(self.quota_waits_s)
        before = self.starts["hit"] + self.starts["miss"]
        placed = sum(self.reasons.values())
        return {
            "nodes": self.size.nodes,
            "notebooks": self.size.notebooks,
            "decisions of placement": placed,
            "placement p50 us": _quantile(placing, 0.5),
            "placement p99 us": _quantile(placing, 0.99),
            "placement p99.9 us": _quantile(placing, 0.999),
            "placement max us": placing[-1],
            "by the clock p99 us": _quantile(by_clock, 0.99),
            "plans": self.plans,
            "plan p50 us": _quantile(planning, 0.5),
            "plan p99 us": _quantile(planning, 0.99),
            "reports taken in": self.reports,
            "placed by last node %": 100 * self.reasons[Why.LAST] / placed,
            "placed by warm %": 100 * self.reasons[Why.WARM] / placed,
            "placed by environment %": 100 * self.reasons[Why.ENVIRONMENT] / placed,
            "placed by room %": 100 * self.reasons[Why.ROOM] / placed,
            "placed in a line %": 100 * self.reasons[Why.LINE] / placed,
            "warm hits before the crowd %": 100 * self.starts["hit"] / max(1, before),
            "wait before the crowd p50 s": _quantile(waits, 0.5),
            "wait before the crowd p99 s": _quantile(waits, 0.99),
            "with a quota p50 s": _quantile(quota_waits, 0.5),
            "with a quota p99 s": _quantile(quota_waits, 0.99),
            "granted": self.starts["granted"],
            "refused after the start_timeout": self.starts["refused"],
            "started again after a node was lost": self.moved,
            "memory in use before the crowd %": 100 * statistics.fmean(self.utilisation or [0.0]),
            "crowd: samples": len(self.jain),
            "crowd: Jain's index by weight": statistics.fmean(self.jain or [math.nan]),
            "crowd: least to most by weight": statistics.fmean(self.least_to_most or [math.nan]),
            "crowd: least to most, worst moment": min(self.least_to_most, default=math.nan),
            "tenants with a quota": self.limited,
            "of them ever beyond it": self.overshoots,
            "most beyond a quota %": 100 * self.quota_overshoot,
            "bound %": 100,
            "seconds of the run": self.seconds,
            "peak memory MiB": self.peak_bytes / 2**20,
        }


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
