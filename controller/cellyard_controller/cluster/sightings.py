"""Which nodes are lost, from what was read of them again and again. Pure.

That the database's clock says so is not enough: set forward by a minute, or another server's after a failover, it would
say it of all nodes at once. A node that lives renews; so one is lost only if it has not renewed for some time by the
clock of whoever looks, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellyard_controller.cluster.leases import Node
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.standing import Terms


@dataclass(frozen=True, slots=True)
class Sighting:
    """A lease as it was first seen with this end."""

    fence: int
    expires_at: float
    since: float
    """By the clock of whoever looks."""


def look(seen: Mapping[str, Sighting], nodes: Sequence[Node], now: float) -> dict[str, Sighting]:
    """What is known of all nodes after another look at them."""
    known: dict[str, Sighting] = {}
    for node in nodes:
        before = seen.get(node.name)
        same = before is not None and (before.fence, before.expires_at) == (node.fence, node.expires_at)
        known[node.name] = before if before is not None and same else Sighting(node.fence, node.expires_at, now)
    return known


def overdue(seen: Mapping[str, Sighting], nodes: Sequence[Node], now: float, terms: Terms, me: str) -> list[Node]:
    """The nodes to take over from: their lease has run out, and for some time nothing was seen of them."""
    return [
        node
        for node in nodes
        if node.name != me
        and node.state is not NodeState.LOST
        and node.left_s <= 0
        and now - seen[node.name].since >= terms.patience_s
    ]
