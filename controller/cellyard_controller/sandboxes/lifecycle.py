"""The states of the things that live long: an enum and a transition table each. An illegal step raises."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class ClaimState(StrEnum):
    """A request for a sandbox."""

    QUEUED = "queued"
    GRANTED = "granted"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class SandboxState(StrEnum):
    """A sandbox goes from left to right."""

    CREATING = "creating"
    WARM = "warm"
    CLAIMED = "claimed"
    STOPPING = "stopping"
    ENDED = "ended"


class KernelState(StrEnum):
    """The kernel of a notebook, as its room sees it."""

    NONE = "none"
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    RESTARTING = "restarting"
    DEAD = "dead"


class EndReason(StrEnum):
    """Why a sandbox or a kernel ended."""

    SHUTDOWN = "shutdown"
    IDLE = "idle"
    TTL = "ttl"
    OOM = "oom"
    EXIT = "exit"
    EVICTED = "evicted"
    START_FAILED = "start_failed"
    IMAGE_MISSING = "image_missing"
    RUNTIME_LOST = "runtime_lost"
    NODE_LOST = "node_lost"
    KERNEL_RESTARTED = "kernel_restarted"
    # A kernel that was refused never came to be.
    CAPABILITY_UNAVAILABLE = "capability_unavailable"
    ENVIRONMENT_FAILED = "environment_failed"
    QUOTA_EXCEEDED = "quota_exceeded"


CLAIM: Mapping[ClaimState, frozenset[ClaimState]] = {
    ClaimState.QUEUED: frozenset({ClaimState.GRANTED, ClaimState.REFUSED, ClaimState.CANCELLED}),
    ClaimState.GRANTED: frozenset(),
    ClaimState.REFUSED: frozenset(),
    ClaimState.CANCELLED: frozenset(),
}

SANDBOX: Mapping[SandboxState, frozenset[SandboxState]] = {
    SandboxState.CREATING: frozenset({SandboxState.WARM, SandboxState.STOPPING, SandboxState.ENDED}),
    SandboxState.WARM: frozenset({SandboxState.CLAIMED, SandboxState.STOPPING, SandboxState.ENDED}),
    SandboxState.CLAIMED: frozenset({SandboxState.STOPPING, SandboxState.ENDED}),
    SandboxState.STOPPING: frozenset({SandboxState.ENDED}),
    SandboxState.ENDED: frozenset(),
}

KERNEL: Mapping[KernelState, frozenset[KernelState]] = {
    KernelState.NONE: frozenset({KernelState.STARTING}),
    KernelState.STARTING: frozenset({KernelState.IDLE, KernelState.DEAD, KernelState.NONE}),
    KernelState.IDLE: frozenset({KernelState.BUSY, KernelState.RESTARTING, KernelState.DEAD, KernelState.NONE}),
    KernelState.BUSY: frozenset({KernelState.IDLE, KernelState.RESTARTING, KernelState.DEAD, KernelState.NONE}),
    KernelState.RESTARTING: frozenset({KernelState.IDLE, KernelState.DEAD, KernelState.NONE}),
    KernelState.DEAD: frozenset({KernelState.STARTING, KernelState.NONE}),
}

_S = TypeVar("_S", bound=StrEnum)


class IllegalTransition(RuntimeError):
    """A step that the table does not have: a defect in the caller."""


def step(table: Mapping[_S, frozenset[_S]], old: _S, new: _S) -> _S:
    """The new state, where the table allows the step. Raises IllegalTransition."""
    if new not in table[old]:
        raise IllegalTransition(f"{type(old).__name__} does not go from {old} to {new}")
    return new
