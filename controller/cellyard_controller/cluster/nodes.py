"""Nodes: the states that one may be in, and one as it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeState(StrEnum):
    """What a node does."""

    SERVING = "serving"
    DRAINING = "draining"
    """It takes no notebook that it does not have."""
    AWAY = "away"
    """Its controller was stopped, and its successor is expected."""
    LOST = "lost"
    """Somebody took it over: what it had is nobody's, or somebody else's."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, as it said with the last renewal of its lease."""

    name: str
    endpoint: str
    state: NodeState
    lease_left_s: float
    """By the database's clock; 0 where it has run out."""
    fence: int
    notebooks: int
    """Those that it has."""
    sandboxes: int
    sandboxes_max: int
    warm: int
    waiting: int
    this_one: bool
    failing: bool
    """Nothing that it makes comes up."""
