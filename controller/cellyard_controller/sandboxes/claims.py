"""Claims: who asks for a sandbox, and how that ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from cellyard_controller.clock import steady
from cellyard_controller.errors import QuotaExceeded
from cellyard_controller.ids import NotebookRef
from cellyard_controller.sandboxes.lifecycle import CLAIM, ClaimState, step
from cellyard_controller.sandboxes.plans import ClaimNumber, Kind, Need, Wait, Waiting
from cellyard_controller.sandboxes.sandbox import ClaimRequest, Sandbox
from cellyard_proto import amounts

_REASONS = {
    "capacity": "the machine has no room for another sandbox",
    "sandboxes": "the tenant has as many sandboxes as it may have",
    "memory": "the tenant's sandboxes have as much memory as they may have",
    "cpu": "the tenant's sandboxes have as many processors as they may have",
}


@dataclass(frozen=True, slots=True)
class Waited:
    """Why a claim waits for others to let go, as its client sees it."""

    reason: str
    """`capacity`, or a quota: `sandboxes`, `memory`, `cpu`."""
    position: int
    """How many claims are served before it."""
    eta_s: float | None

    @property
    def for_room(self) -> bool:
        """Whether it is the machine that has none left, and not the tenant's quota."""
        return self.reason == "capacity"

    def __str__(self) -> str:
        return _REASONS[self.reason]


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A claim that has no sandbox yet, as it is told."""

    ref: NotebookRef
    kind: Kind
    need: Need
    waited: Waited | None
    """What it waits for that others have; None where its sandbox is being made."""
    asked_at: float
    """By the steady clock."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom to tell how a claim goes on."""

    progress: Callable[[str, str], None]
    """A stage for programs and a sentence for people."""
    waits: Callable[[Waited], None]
    """Called when what it waits for, or its place, has changed."""


class Claim:
    """One request for a sandbox."""

    def __init__(self, number: ClaimNumber, request: ClaimRequest, kind: Kind, need: Need, listener: Listener) -> None:
        self.number, self.request, self.kind, self.need = number, request, kind, need
        self.state = ClaimState.QUEUED
        self.asked_at = time.monotonic()
        self.found = False
        """Whether a warm one was there when it was asked for."""
        self.patience: asyncio.TimerHandle
        """When it is refused, if it still waits for others to let go."""
        self.waited: Waited | None = None
        """What it was told last, while it waits for others to let go."""
        self.given: Sandbox | None = None
        """What it was granted."""
        self._listener = listener
        self._outcome: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()

    def view(self) -> ClaimView:
        """As it is told."""
        asked_at = steady() - (time.monotonic() - self.asked_at)
        return ClaimView(self.request.ref, self.kind, self.need, self.waited, asked_at)

    def as_waiting(self) -> Waiting:
        """As the scheduler sees it."""
        return Waiting(self.number, self.request.ref.tenant, self.kind, self.need)

    async def sandbox(self) -> Sandbox:
        """What it is granted. Raises what it is refused with."""
        # Shielded: whoever is cancelled here may be granted one before that is known, and lets go of it then.
        return await asyncio.shield(self._outcome)

    def grant(self, sandbox: Sandbox) -> None:
        """It has a sandbox."""
        self.state = step(CLAIM, self.state, ClaimState.GRANTED)
        self.given = sandbox
        self._outcome.set_result(sandbox)

    def refuse(self, why: BaseException) -> None:
        """It ends without one."""
        self.state = step(CLAIM, self.state, ClaimState.REFUSED)
        self._outcome.set_exception(why)
        self._outcome.exception()  # whoever asked may be gone already

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self.state = step(CLAIM, self.state, ClaimState.CANCELLED)

    def tell_progress(self, stage: str, message: str) -> None:
        """How far its sandbox is."""
        self._listener.progress(stage, message)

    def tell_wait(self, wait: Wait, pace_s: float | None) -> None:
        """What it waits for. `pace_s`: seconds between two claims being served."""
        if wait.reason == "start":
            self.waited = None
            return
        eta = None if pace_s is None else pace_s * (wait.position + 1)
        before, self.waited = self.waited, Waited(wait.reason, wait.position, eta)
        if before is None or (before.reason, before.position) != (wait.reason, wait.position):
            self._listener.waits(self.waited)


def out_of_patience(waited: Waited, start_timeout_s: float) -> QuotaExceeded:
    """What a claim is refused with that has waited for others long enough."""
    return QuotaExceeded(
        f"no sandbox within the start_timeout of {amounts.duration(start_timeout_s)}: {waited}", quota=waited.reason
    )
