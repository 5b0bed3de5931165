"""Counting what happens, for whoever reads it later. Knows nothing of who that is.

What can be read off the state of things is read there; here is only what leaves no trace. One thread writes each of
these, any may read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

Labels = tuple[str, ...]


class Tally:
    """Counts that only grow, by labels."""

    def __init__(self) -> None:
        self._counts: dict[Labels, int] = {}

    def add(self, *labels: str, by: int = 1) -> None:
        """One more of these."""
        self._counts[labels] = self._counts.get(labels, 0) + by

    def read(self) -> Mapping[Labels, int]:
        """All counts as they stand."""
        return dict(self._counts)


@dataclass(frozen=True, slots=True)
class Spread:
    """How often something took how long."""

    bounds: tuple[float, ...]
    """Upper bounds in seconds, ascending."""
    counts: tuple[int, ...]
    """Of each bound those that took at most that and more than the bound before; last what took longer than all."""
    total: float
    """All seconds together."""


class Durations:
    """How long something took, each time."""

    def __init__(self, *bounds: float) -> None:
        """`bounds`: in seconds, ascending."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """It took this long. A clock that went back counts as no time at all."""
        seconds = max(0.0, seconds)
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def read(self) -> Spread:
        """All of them as they stand."""
        return Spread(self._bounds, tuple(self._counts), self._total)


class DurationsBy:
    """How long something took, each time, by labels."""

    def __init__(self, *bounds: float) -> None:
        """`bounds`: in seconds, ascending."""
        self._bounds = bounds
        self._by: dict[Labels, Durations] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        """One of these took this long."""
        durations = self._by.get(labels)
        if durations is None:
            durations = self._by[labels] = Durations(*self._bounds)
        durations.observe(seconds)

    def read(self) -> Mapping[Labels, Spread]:
        """All of them as they stand."""
        return {labels: durations.read() for labels, durations in list(self._by.items())}
