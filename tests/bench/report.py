"""Rows of a benchmark: ours and its comparison from the same run, as a ratio. Printed, and written as JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "bench-results"


@dataclass(frozen=True)
class Row:
    """One measurement in its unit, what it is compared with, and what their ratio may be."""

    work: str
    unit: str
    ours: float
    ours_p99: float
    compared_with: str
    theirs: float
    ratio: float
    target: float
    at_least: bool
    """Whether more is better."""
    n: int

    @property
    def met(self) -> bool:
        """Whether the ratio is within the target."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def row(work: str, ours: Sequence[float], compared_with: str, theirs: Sequence[float], target: float) -> Row:
    """Medians of two lists of seconds that were measured in turn."""
    mine, other = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
    return Row(work, "ms", mine, p99(ours) * 1e3, compared_with, other, mine / other, target, False, len(ours))


def tail(work: str, ours: Sequence[float], compared_with: str, theirs: Sequence[float], target: float) -> Row:
    """The 99th percentile of ours against the median of theirs, in seconds."""
    mine, other = p99(ours) * 1e3, statistics.median(theirs) * 1e3
    return Row(work, "ms", mine, mine, compared_with, other, mine / other, target, False, len(ours))


def rate(
    work: str, ours: Sequence[float], unit: str, compared_with: str, theirs: Sequence[float], target: float
) -> Row:
    """Medians of what is better the more it is: the ratio is to reach the target."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    return Row(work, unit, mine, min(ours), compared_with, other, mine / other, target, True, len(ours))


def amount(work: str, ours: Sequence[float], unit: str, most: float) -> Row:
    """The median of what may be this much at most."""
    mine = statistics.median(ours)
    return Row(work, unit, mine, max(ours), f"at most {most:g} {unit}", most, mine / most, 1.0, False, len(ours))


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def publish(rows: list[Row]) -> Path:
    """Prints the rows as a table and writes them; returns the file."""
    heads = f"{'ours':>9}{'p99':>9} unit  {'compared with':<36}{'theirs':>9}{'ratio':>8}{'target':>9}"
    print(f"\n{'work':<46}{heads}")
    for each in rows:
        bound = f"{'>=' if each.at_least else '<='}{each.target:.2f}"
        print(
            f"{each.work:<46}{each.ours:>9.2f}{each.ours_p99:>9.2f} {each.unit:<5} {each.compared_with:<36}"
            f"{each.theirs:>9.2f}{each.ratio:>8.2f}{bound:>9}  {'met' if each.met else 'MISSED'}"
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps([asdict(each) | {"met": each.met} for each in rows], indent=2) + "\n")
    return path
