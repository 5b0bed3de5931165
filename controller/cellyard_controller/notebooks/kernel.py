"""A room's kernel: its state, the sandbox it sits in, and what has been heard from there."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any

from cellyard_controller.clock import shown, steady
from cellyard_controller.environments.definition import Definition
from cellyard_controller.sandboxes.lifecycle import KERNEL, KernelState, step
from cellyard_controller.sandboxes.sandbox import KernelSettings, Sandbox


@dataclass(frozen=True, slots=True)
class KernelView:
    """The kernel as clients see it."""

    state: KernelState
    generation: int = 0
    kernel_type: str = ""
    env_source: str = ""
    sandbox_id: str = ""
    runtime: str = ""
    template: str = ""
    network: str = ""
    capabilities: tuple[str, ...] = ()
    end_reason: str = ""
    claimed_at: float = 0.0
    expires_at: float = 0.0


class Kernel:
    """The kernel of one notebook. Changed by the room's task alone."""

    def __init__(self, end_reason: str = "") -> None:
        self.state = KernelState.NONE
        self.settings: KernelSettings | None = None
        self.sandbox: Sandbox | None = None
        self.generation = 0
        self.end_reason = end_reason
        self.received = 0
        """Number of the last report that was taken in."""
        self.committed = 0
        """Number of the last report that is on disk."""
        self.last_used = steady()
        self.visits = 0
        """What clients do in the sandbox at the moment, beside its cells."""

    @property
    def running(self) -> bool:
        """Whether a kernel is there, or on its way."""
        return self.state not in (KernelState.NONE, KernelState.DEAD)

    @property
    def takes_cells(self) -> bool:
        """Whether a kernel is there."""
        return self.state in (KernelState.IDLE, KernelState.BUSY)

    def move(self, state: KernelState) -> None:
        """One step of its life; staying is none."""
        if state is not self.state:
            self.state = step(KERNEL, self.state, state)

    def seat(self, sandbox: Sandbox, *, committed: int = 0) -> None:
        """The notebook has this sandbox from now on."""
        self.sandbox = sandbox
        self.generation = sandbox.kernel.generation
        self.received = self.committed = committed
        self.end_reason = ""
        self.last_used = steady()

    def unseat(self, state: KernelState, reason: str) -> None:
        """Sandbox and kernel are gone."""
        self.move(state)
        self.sandbox = None
        self.end_reason = reason

    def deadline(self) -> float | None:
        """When it ends by idleness or age, unless it is used; by the steady clock."""
        if self.sandbox is None or self.settings is None:
            return None
        idle = self.last_used + self.settings.idle_timeout_s
        ttl = self.sandbox.claimed_at + self.settings.ttl_s
        return min(idle, ttl) if self.state is KernelState.IDLE and not self.visits else ttl

    def view(self) -> KernelView:
        """The kernel as clients see it."""
        sandbox, settings = self.sandbox, self.settings
        if sandbox is None or settings is None:
            return KernelView(self.state, end_reason=self.end_reason)
        return KernelView(
            state=self.state,
            generation=self.generation,
            kernel_type=sandbox.kernel_type,
            env_source=sandbox.env_source,
            sandbox_id=sandbox.sandbox_id,
            runtime=sandbox.runtime.name,
            template=sandbox.template.name,
            network=settings.network,
            capabilities=sandbox.capabilities,
            end_reason=self.end_reason,
            claimed_at=shown(sandbox.claimed_at),
            expires_at=shown(sandbox.claimed_at + settings.ttl_s),
        )


def settings_to_json(settings: KernelSettings) -> bytes:
    """Settings for the store; they may carry secrets, so the caller seals them."""
    values: dict[str, Any] = asdict(settings)
    values["require"] = sorted(settings.require)
    values["named"] = sorted(settings.named)
    values["files"] = {name: base64.b64encode(body).decode() for name, body in settings.files.items()}
    return json.dumps(values).encode()


def settings_from_json(text: bytes) -> KernelSettings:
    """Settings as they were stored."""
    values = json.loads(text)
    values["require"] = frozenset(values["require"])
    values["named"] = frozenset(values.get("named", ()))
    values["files"] = {name: base64.b64decode(body) for name, body in values["files"].items()}
    if (definition := values.get("definition")) is not None:
        for name in ("requirements", "channels"):
            definition[name] = tuple(definition.get(name, ()))
        values["definition"] = Definition(**definition)
    return KernelSettings(**values)
