"""How a node stands with its lease, from nothing but the time and when the lease ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """From best to worst. `half` may become `in_force` again, `lost` is for good."""

    IN_FORCE = "in_force"
    HALF = "half"
    """Half of the lease has gone without a renewal: nothing new is dispatched."""
    LOST = "lost"
    """So little is left that sandboxes have to be stopped now: at the end somebody else may have the notebooks."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What follows from the length of a lease, in seconds."""

    lease_s: float

    @property
    def renew_every_s(self) -> float:
        """Between two renewals: one may be lost without anybody noticing."""
        return self.lease_s * 0.2

    @property
    def attempt_s(self) -> float:
        """A renewal without an answer for so long is given up, with its connection."""
        return self.lease_s * 0.4

    @property
    def retry_s(self) -> float:
        """Between a renewal that failed and the next."""
        return self.lease_s * 0.05

    @property
    def margin_s(self) -> float:
        """What is left of a lease when it counts as lost: for stopping sandboxes."""
        return self.lease_s * 0.25

    @property
    def patience_s(self) -> float:
        """For so long another node's renewals must have been missed, whatever the database's clock says.

        Less than what is left of a lease when its last renewal is seen first, so that it never delays anything where
        that clock goes evenly; more than two renewals, so that a clock that is set forward costs no node its lease.
        """
        return self.lease_s * 0.6


def standing(now: float, deadline: float, terms: Terms) -> Standing:
    """How a lease that ends at `deadline` stands."""
    left = deadline - now
    if left <= terms.margin_s:
        return Standing.LOST
    return Standing.HALF if left <= terms.lease_s / 2 else Standing.IN_FORCE


def changes_in(now: float, deadline: float, terms: Terms) -> float:
    """In how many seconds a lease that is not renewed stands worse; 0 where it cannot."""
    left = deadline - now
    bounds = (terms.lease_s / 2, terms.margin_s)
    return next((left - bound for bound in bounds if left > bound), 0.0)
