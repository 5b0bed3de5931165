"""What clients do in a notebook's sandbox beside its cells: files in and out, commands. None of it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from cellyard_controller.clock import steady
from cellyard_controller.errors import (
    InvalidRequest,
    KernelDied,
    NoKernel,
    QuotaExceeded,
    Refused,
    SandboxAway,
    Unavailable,
)
from cellyard_controller.ids import NotebookRef
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.sandboxes.flows import Flow, FlowBroken, FlowFailed, What
from cellyard_controller.sandboxes.sandbox import Sandbox, SandboxGone

_END_KNOWN_WITHIN = 2.0
"""Seconds after which a sandbox whose connection broke is not heard to have ended."""


class Visits:
    """The flows of one room's sandbox. Its coroutines may be called from any task."""

    def __init__(
        self, ref: NotebookRef, *, kernel: Kernel, ask: Ask, post: Callable[[Callable[[], Awaitable[Any]]], None]
    ) -> None:
        self._ref, self._kernel, self._ask, self._post = ref, kernel, ask, post

    @asynccontextmanager
    async def begin(self, what: What) -> AsyncIterator[Flow]:
        """Something is done in the sandbox, for as long as the block runs; the sandbox is in use meanwhile.

        What goes wrong in the block with the flow comes out as what clients are told. Raises NoKernel,
        InvalidRequest, QuotaExceeded, KernelDied, SandboxAway.
        """
        async with self.inside("files") as sandbox, self.flow(sandbox, what) as flow:
            yield flow

    @asynccontextmanager
    async def inside(self, has: str) -> AsyncIterator[Sandbox]:
        """The sandbox, which is in use as long as the block runs. Raises NoKernel, which says that it has no `has`."""
        entered = False

        async def enter() -> Sandbox:
            nonlocal entered
            sandbox = self._kernel.sandbox
            if sandbox is None or not self._kernel.running:
                raise NoKernel(f"no kernel runs for notebook {self._ref.notebook_id!r}, and so it has no {has}")
            self._kernel.visits += 1
            self._kernel.last_used = steady()
            entered = True
            return sandbox

        try:
            yield await self._ask(enter)
        finally:
            if entered:
                self._post(self._leave)

    @asynccontextmanager
    async def flow(self, sandbox: Sandbox, what: What) -> AsyncIterator[Flow]:
        """One thing that is done there. Raises as `begin`, apart from NoKernel."""
        if sandbox.link.flows.full:
            raise QuotaExceeded("too many transfers and commands at a time in this sandbox", retry_after_s=1.0)
        try:
            async with sandbox.link.flows.open(what) as flow:
                yield flow
        except FlowFailed as failed:
            raise _refusal(failed) from None
        except FlowBroken:
            raise await self._why_broken(sandbox) from None

    async def _leave(self) -> None:
        self._kernel.visits -= 1
        self._kernel.last_used = steady()

    async def _why_broken(self, sandbox: Sandbox) -> Refused:
        """The connection is gone: because the sandbox has ended, as is known soon, or for the moment."""
        try:
            async with asyncio.timeout(_END_KNOWN_WITHIN):
                await sandbox.wait_connected()
        except SandboxGone as gone:
            return KernelDied(f"the sandbox has ended meanwhile: {gone}", end_reason=str(gone.reason))
        except TimeoutError:
            pass
        return SandboxAway("the connection to the sandbox broke, and what was under way there is undone or killed")


def _refusal(failed: FlowFailed) -> Refused:
    if failed.kind == "used_up":
        return QuotaExceeded(str(failed), cause=failed.kind)
    if failed.kind == "failed":
        return Unavailable(str(failed), cause=failed.kind)
    return InvalidRequest(str(failed), cause=failed.kind)
