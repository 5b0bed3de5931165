"""Where the kernel of a sandbox stands, and which steps there are."""

from __future__ import annotations

import enum

from cellyard_proto.v1 import link_pb2


class HostState(enum.IntEnum):
    """Values of the link's HostState."""

    NONE = link_pb2.HOST_STATE_NONE
    STARTING = link_pb2.HOST_STATE_STARTING
    READY = link_pb2.HOST_STATE_READY
    DEAD = link_pb2.HOST_STATE_DEAD


_STEPS = {
    HostState.NONE: {HostState.STARTING},
    HostState.STARTING: {HostState.STARTING, HostState.READY, HostState.DEAD},
    HostState.READY: {HostState.STARTING, HostState.DEAD},
    HostState.DEAD: {HostState.STARTING},
}


class IllegalStep(Exception):
    """The kernel cannot go from where it stands to there."""


class KernelLife:
    """The kernel's state; each start is a new generation."""

    def __init__(self) -> None:
        self.state = HostState.NONE
        self.generation = 0
        self.reason = ""

    def go(self, state: HostState, reason: str = "") -> link_pb2.KernelStatus:
        """Takes a step and returns the new status. Raises IllegalStep."""
        if state not in _STEPS[self.state]:
            raise IllegalStep(f"from {self.state.name} to {state.name}")
        if state is HostState.STARTING:
            self.generation += 1
        self.state, self.reason = state, reason
        return self.status()

    def status(self) -> link_pb2.KernelStatus:
        """The status as the link has it."""
        return link_pb2.KernelStatus(
            state=link_pb2.HostState.ValueType(self.state), generation=self.generation, reason=self.reason
        )
