"""An adopted sandbox is attested again before anything is said to it.

While no controller was there, somebody may have changed what confines it, or another process may dial in its agent's
place. So its room hears of a connection, and the agent is welcomed, only once both witnesses say again what was asked
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from cellyard_controller.runtimes import SandboxSpec
from cellyard_controller.sandboxes.coming_up import attest
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.link import LinkOwner
from cellyard_controller.sandboxes.link_messages import AgentHello, FromAgent, Greeting
from cellyard_controller.sandboxes.sandbox import Sandbox, SandboxGone

_WITHIN = 8.0
"""Seconds; an agent waits 10 s for its welcome and dials again then."""
_AGAIN_AFTER = 1.0

log = structlog.get_logger()


class NotAttested(ConnectionError):
    """The connection is ended; the agent may dial again."""


class Attesting:
    """Owns the link of an adopted sandbox until it is attested, and hands it to the room then."""

    def __init__(
        self, sandbox: Sandbox, spec: SandboxSpec, let_go: Callable[[SandboxGone], object], owner: LinkOwner
    ) -> None:
        """`let_go` ends a sandbox that deviates."""
        self._sandbox, self._spec, self._let_go, self._owner = sandbox, spec, let_go, owner

    async def link_up(self, hello: AgentHello) -> Greeting:
        """The agent has connected. Raises NotAttested."""
        self._sandbox.told = hello.facts
        try:
            async with asyncio.timeout(_WITHIN):
                await self._attest()
        except TimeoutError:
            raise NotAttested("the runtime does not answer, so the sandbox cannot be attested yet") from None
        link = self._sandbox.link
        if link.owner is self:  # else the room has lost it meanwhile
            link.owner = self._owner
        return await link.owner.link_up(hello)

    async def link_ready(self) -> None:
        """Not before it is attested, and then it is the room's."""

    async def link_received(self, message: FromAgent) -> None:
        """Not before it is attested, and then it is the room's."""

    async def link_down(self) -> None:
        """The connection has ended."""
        await self._owner.link_down()

    async def _attest(self) -> None:
        while True:
            try:
                await attest(self._sandbox, self._spec)
                return
            except SandboxGone as gone:
                if gone.reason is EndReason.CAPABILITY_UNAVAILABLE:
                    self._let_go(gone)
                    raise NotAttested(str(gone)) from gone
                # The runtime does not answer: that is nothing that the sandbox could be blamed for.
                log.warning("an adopted sandbox is not attested yet", sandbox=self._sandbox.sandbox_id, why=str(gone))
            await asyncio.sleep(_AGAIN_AFTER)
