"""Requests a second: a token bucket for each tenant. Pure; time comes in as a number of seconds that only grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cellyard_controller.ids import TenantName

LEAST_AT_ONCE = 5.0
"""Requests that may come at once however small the rate: a client's first steps are several."""


@dataclass(slots=True)
class Bucket:
    """What one tenant may still ask for. Full at first; it fills with the rate, up to one second's worth."""

    rate: float
    left: float = field(init=False)
    _at: float | None = None

    def __post_init__(self) -> None:
        self.left = self.size

    @property
    def size(self) -> float:
        """Requests that may come at once."""
        return max(self.rate, LEAST_AT_ONCE)

    def take(self, now: float) -> float:
        """Takes one request out; returns 0, or the seconds until there is one to take."""
        if self._at is not None:
            self.left = min(self.size, self.left + max(0.0, now - self._at) * self.rate)
        self._at = now
        if self.left < 1:
            return (1 - self.left) / self.rate
        self.left -= 1
        return 0.0


class Rates:
    """The buckets of all tenants that have a rate."""

    def __init__(self, rate_of: Callable[[TenantName], float | None]) -> None:
        self._rate_of = rate_of
        self._buckets: dict[TenantName, Bucket] = {}

    def take(self, tenant: TenantName, now: float) -> float:
        """Takes one request of a tenant; returns 0, or the seconds until there is one to take."""
        rate = self._rate_of(tenant)
        if rate is None:
            self._buckets.pop(tenant, None)
            return 0.0
        bucket = self._buckets.get(tenant)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[tenant] = Bucket(rate)
        return bucket.take(now)
