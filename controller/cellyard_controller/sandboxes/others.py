"""Other nodes, as far as a scheduler has to know of them."""

from __future__ import annotations

from typing import Protocol

from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Need


class Others(Protocol):
    """What tenants have elsewhere, and what that leaves of their quotas here."""

    def bounds(self, tenant: TenantName, quota: Bounds) -> Bounds:
        """What a tenant may have here, of a quota that holds over all nodes."""

    def elsewhere(self, tenant: TenantName) -> Need:
        """What a tenant has on other nodes."""

    @property
    def together(self) -> Bounds | None:
        """What all nodes have, of which shares are parts; None: this machine is all there is."""


class Nobody:
    """For a controller that is alone."""

    together = None

    def bounds(self, tenant: TenantName, quota: Bounds) -> Bounds:
        """All of it."""
        return quota

    def elsewhere(self, tenant: TenantName) -> Need:
        """Nothing."""
        return NOTHING
