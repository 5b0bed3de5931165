"""One sandbox as the controller holds it, and who it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cellyard_controller.environments.definition import Definition
from cellyard_controller.executions.reports import Warned
from cellyard_controller.ids import NotebookKey, NotebookRef, SandboxId
from cellyard_controller.runtimes import NOTHING_TOLD, Runtime, Template
from cellyard_controller.sandboxes.lifecycle import SANDBOX, EndReason, SandboxState, step
from cellyard_controller.sandboxes.link import AgentLink, LinkOwner
from cellyard_controller.sandboxes.link_messages import AgentHello, FromAgent, Greeting, KernelReport
from cellyard_controller.sandboxes.plans import Kind

_Predicate = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """What kernel is wanted, and in what sandbox. Checked, with defaults filled in."""

    kernel_type: str
    env_source: str
    runtime: str
    template: str
    network: str
    """`none`, `allowlist` or `open`."""
    named: frozenset[str] = frozenset()
    """Which of `runtime`, `template` and `network` the client named, and did not leave to the defaults."""
    require: frozenset[str] = frozenset()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    start_timeout_s: float = 300.0
    idle_timeout_s: float = 1800.0
    ttl_s: float = 86400.0
    first_ttl_s: float | None = None
    definition: Definition | None = None
    """Of an environment that has to be prepared."""
    """What `ttl_s` was before it was extended."""

    @property
    def extension_s(self) -> float:
        """By how much an extension extends that does not say it."""
        return self.ttl_s if self.first_ttl_s is None else self.first_ttl_s


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A notebook wants a sandbox."""

    notebook: NotebookKey
    ref: NotebookRef
    settings: KernelSettings


class SandboxOwner(LinkOwner, Protocol):
    """Who a claimed sandbox belongs to."""

    async def evict(self, sandbox_id: SandboxId, why: str) -> bool:
        """Lets the sandbox go where it is idle still. Returns whether it is."""

    async def sandbox_ended(self, sandbox_id: SandboxId, reason: EndReason, message: str) -> None:
        """The sandbox is gone; its kernel with it."""

    def sandbox_warned(self, warning: Warned) -> None:
        """Something about the sandbox that whoever runs code there should know."""


class SandboxGone(Exception):
    """The sandbox ended while somebody waited for it."""

    def __init__(self, reason: EndReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Sandbox:
    """One sandbox. Owns its link until a room takes it over."""

    def __init__(
        self, sandbox_id: SandboxId, runtime: Runtime, template: Template, uid: int, kind: Kind, created_at: float
    ) -> None:
        self.sandbox_id = sandbox_id
        self.runtime = runtime
        self.template = template
        self.uid = uid
        self.kind = kind
        self.created_at = created_at
        self.state = SandboxState.CREATING
        self.instance_id = ""
        self.notebook: NotebookRef | None = None
        self.capabilities: tuple[str, ...] = ()
        self.env_source = ""
        self.kernel_type = ""
        self.claimed_at = 0.0
        self.made_of = ""
        """What its runtime made it of; see Runtime.makings."""
        self.comes_back = False
        """It was warm before this controller's start, and is not known to be so still."""
        self.outdated = False
        """Nobody should be given it any more."""
        self.unused_since: float | None = None
        """Of a claimed one: since when its room does nothing with it, in seconds since the epoch."""
        self.on_move: Callable[[], None] = lambda: None
        """Called after each step of its life."""
        self.on_change: Callable[[], None] = lambda: None
        """Called before a claim, when the link comes or goes or the kernel changes."""
        self.link: AgentLink
        self.owner: SandboxOwner | None = None
        self.gate: Callable[[LinkOwner], LinkOwner] | None = None
        """Stands between link and room until the sandbox may be spoken to."""
        self.kernel = KernelReport("none", 0, "")
        self.told = NOTHING_TOLD
        """What its agent said of itself when it last connected, before a room took over."""
        self.untouched = False
        """Whether its agent said then that nobody had it ever."""
        self.end: tuple[EndReason, str] | None = None
        self._greeting: Greeting
        self._changed = asyncio.Condition()

    def attach_link(self, link: AgentLink, greeting: Greeting) -> None:
        """The link that this sandbox's agent will dial, and what it is told until a room takes over."""
        self.link = link
        self._greeting = greeting

    def move(self, state: SandboxState) -> None:
        """One step of its life."""
        self.state = step(SANDBOX, self.state, state)
        self.on_move()

    def hand_over(self, owner: SandboxOwner) -> None:
        """From now on the link speaks with this room, by way of its gate where it has one."""
        self.owner = owner
        if self.notebook is not None:
            self.link.whose = {"tenant": self.notebook.tenant, "notebook_id": self.notebook.notebook_id}
        self.link.owner = self.gate(owner) if self.gate is not None else owner

    def take_back(self) -> None:
        """What its agent still says is not the room's any more, which may have another sandbox by then."""
        self.link.owner = self

    async def wait_connected(self) -> None:
        """Returns when the agent is there. Raises SandboxGone."""
        await self._wait(lambda: self.link.up)

    async def wait_kernel(self) -> None:
        """Returns when the kernel is ready. Raises SandboxGone where it or the sandbox died."""
        await self._wait(lambda: self.kernel.state in ("ready", "dead"))
        if self.kernel.state == "dead":
            raise SandboxGone(EndReason.START_FAILED, f"the kernel did not start: {self.kernel.reason}")

    def warned(self, warning: Warned) -> None:
        """Something stands before it that whoever runs code in it should know of."""
        if self.owner is not None:
            self.owner.sandbox_warned(warning)

    async def ended(self, reason: EndReason, message: str) -> None:
        """It is gone: tells whoever waits, and the room that holds it."""
        async with self._changed:
            if self.end is not None:
                return
            self.end = (reason, message)
            self.on_move()
            self._changed.notify_all()
        if self.owner is not None:
            await self.owner.sandbox_ended(self.sandbox_id, reason, message)

    # As the owner of its link, before a room takes over

    async def link_up(self, hello: AgentHello) -> Greeting:
        """The agent has connected."""
        self.kernel = hello.kernel
        self.told, self.untouched = hello.facts, hello.untouched
        return self._greeting

    async def link_ready(self) -> None:
        """The agent is greeted."""
        await self._notify()

    async def link_received(self, message: FromAgent) -> None:
        """The agent says something; before a claim only its kernel's state means anything."""
        if isinstance(message, KernelReport):
            self.kernel = message
        await self._notify()

    async def link_down(self) -> None:
        """The connection ended; the exit, if it is one, comes from the runtime."""
        await self._notify()

    async def _notify(self) -> None:
        self.on_change()
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, happened: _Predicate) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.end is not None or happened())
        if self.end is not None:
            raise SandboxGone(*self.end)
