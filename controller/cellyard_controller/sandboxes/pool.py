"""How many warm sandboxes a pool is to have: as many as are claimed while one more is being made, and a few. Pure.

Claims are taken to come as a Poisson process whose rate is estimated from those of the last minutes. While a sandbox
is made, a number of claims with that distribution comes; the target is its 99 % quantile, within the configured
bounds, and beyond the least one not so many that more than twice as many lie idle as are in use. That bound costs hits
where sandboxes are used for less than five times as long as one takes to be made.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from cellyard_controller.sandboxes.plans import Kind

MEMORY_S = 120.0
"""Claims count for the estimate with a weight that falls to 1/e in this time."""
_QUANTILE = 0.99
_NEW_LEAD = 0.3
"""Weight of the last lead time in the estimate."""
_KEEP_S = 60.0
"""A target is lowered only when it was lower for this long: a sandbox ended and made again costs more than one kept."""
REFILL_AFTER_S = 0.25
"""Seconds after a claim in which nothing is made for the pool: first cells have the machine to themselves."""
_BACK_OFF = (1.0, 2.0, 5.0, 15.0, 60.0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A pool's configured size."""

    least: int = 0
    most: int = 0


@dataclass(slots=True)
class Demand:
    """What has been seen of one pool's claims, and what follows from it. Times are monotonic seconds."""

    hits: int = 0
    """Claims that were given a warm sandbox at once."""
    misses: int = 0
    failures: int = 0
    """Sandboxes for the pool that did not come up."""
    lead_s: float = 1.0
    """From the start of making a sandbox to its being warm."""
    _count: float = 0.0
    """Claims, each with the weight that it has left at `_faded_at`."""
    _use: float = 0.0
    """Seconds in use, likewise."""
    _faded_at: float = 0.0
    _in_use: int = 0
    _born_at: float | None = None
    _failed_in_a_row: int = 0
    _try_again_at: float = 0.0
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    """Targets of the last while with their times; each is larger than those behind it."""

    def asked(self, now: float) -> None:
        """Somebody asks for a sandbox."""
        if not self.pause(now):  # else claims that never cease would put it off for ever
            self._try_again_at = now + REFILL_AFTER_S

    def claimed(self, now: float, *, hit: bool) -> None:
        """It was there, or none was."""
        self.hits += hit
        self.misses += not hit
        self._fade(now)
        self._count += 1.0

    def made(self, lead_s: float) -> None:
        """A sandbox has become warm."""
        self.lead_s += _NEW_LEAD * (lead_s - self.lead_s)
        self._failed_in_a_row = 0

    def failed(self, now: float) -> None:
        """A sandbox did not come up: the next one for the pool waits."""
        self.failures += 1
        pause = _BACK_OFF[min(self._failed_in_a_row, len(_BACK_OFF) - 1)]
        self._failed_in_a_row += 1
        self._try_again_at = now + pause

    def failing(self, now: float) -> bool:
        """The last one did not come up, and that was lately: what was never tried again proves nothing for long."""
        return self._failed_in_a_row > 0 and now < self._try_again_at + _BACK_OFF[-1]

    def rate(self, now: float) -> float:
        """Claims a second."""
        self._fade(now)
        return self._count / self._covered(now)

    def target(self, now: float, bounds: Bounds, in_use: int) -> int:
        """How many warm sandboxes there should be. `in_use`: how many of the pool's kind somebody has."""
        coming = self.rate(now) * (REFILL_AFTER_S + self.lead_s)
        self._in_use = in_use
        # Of those that the pool has, as many as claims are coming are still being made.
        wanted = min(quantile(coming), int(2 * self._use / self._covered(now) + coming))
        return self._held_up(now, min(max(wanted, bounds.least), max(bounds.most, bounds.least)))

    def pause(self, now: float) -> float:
        """Seconds until one more may be made for the pool, after a failure or a claim."""
        return max(0.0, self._try_again_at - now)

    def _held_up(self, now: float, target: int) -> int:
        while self._recent and self._recent[-1][1] <= target:
            self._recent.pop()
        self._recent.append((now, target))
        while now - self._recent[0][0] > _KEEP_S:
            self._recent.popleft()
        return self._recent[0][1]

    def _fade(self, now: float) -> None:
        if self._born_at is None:
            self._born_at = self._faded_at = now
        gone = now - self._faded_at
        left = math.exp(-gone / MEMORY_S)
        self._count *= left
        self._use = self._use * left + self._in_use * MEMORY_S * (1 - left)
        self._faded_at = now

    def _covered(self, now: float) -> float:
        """The weight of all that was seen: before the memory is full, it covers a shorter time."""
        assert self._born_at is not None
        return MEMORY_S * -math.expm1(-max(now - self._born_at, 1.0) / MEMORY_S)


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as it stands."""

    kind: Kind
    demand: Demand
    target: int
    warm: int
    making: int
    claimed: int
    claim_rate: float
    """Claims a second."""
    oldest_s: float
    """Age of the oldest warm one."""


def quantile(mean: float) -> int:
    """The least number that a Poisson distribution of this mean stays below with 99 % probability."""
    if mean > 500:  # where the sum below would underflow, and the normal distribution is as good
        return math.ceil(mean + 2.33 * math.sqrt(mean))
    number, term, total = 0, math.exp(-mean), 0.0
    while True:
        total += term
        number += 1
        if total >= _QUANTILE:
            return number
        term *= mean / number
