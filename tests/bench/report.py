"""Rows of a benchmark: ours and its comparison from the same run, as a ratio. Printed, and written as JSON."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "bench-results"


@dataclass(frozen=True)
class Row:
    """One measurement, medians and p99 in milliseconds, and what it is allowed to be."""

    work: str
    ours_p50_ms: float
    ours_p99_ms: float
    compared_with: str
    theirs_p50_ms: float
    theirs_p99_ms: float
    ratio: float
    target: float
    n: int

    @property
    def met(self) -> bool:
        """Whether the ratio of the medians is within the target."""
        return self.ratio <= self.target


def row(work: str, ours: list[float], compared_with: str, theirs: list[float], target: float) -> Row:
    """A row from two lists of seconds that were measured in turn."""
    p50, other = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
    return Row(work, p50, p99(ours), compared_with, other, p99(theirs), p50 / other, target, len(ours))


def p99(seconds: list[float]) -> float:
    """The 99th percentile in milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * 0.99))] * 1e3


def publish(rows: list[Row]) -> Path:
    """Prints the rows as a table and writes them; returns the file."""
    print(f"\n{'work':<34}{'p50 ms':>9}{'p99 ms':>9}   {'compared with':<34}{'p50 ms':>9}{'ratio':>8}{'target':>8}")
    for each in rows:
        print(
            f"{each.work:<34}{each.ours_p50_ms:>9.2f}{each.ours_p99_ms:>9.2f}   {each.compared_with:<34}"
            f"{each.theirs_p50_ms:>9.2f}{each.ratio:>8.2f}{each.target:>8.2f}  {'met' if each.met else 'MISSED'}"
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps([asdict(each) | {"met": each.met} for each in rows], indent=2) + "\n")
    return path
