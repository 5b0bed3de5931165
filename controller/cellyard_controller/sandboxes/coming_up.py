"""Steps by which a sandbox comes up, each of which may end it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.runtimes import RuntimeFailed, SandboxSpec
from cellyard_controller.sandboxes.flows import FlowBroken, FlowFailed, WriteFile
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.sandbox import Sandbox, SandboxGone

log = structlog.get_logger()


async def attest(sandbox: Sandbox, spec: SandboxSpec) -> None:
    """Nobody is given a sandbox that is not confined as it must be. Raises SandboxGone."""
    try:
        found = await sandbox.runtime.deviations(sandbox.instance_id, spec, sandbox.told)
    except RuntimeFailed as failed:
        raise SandboxGone(EndReason(failed.reason), str(failed)) from failed
    if found:
        log.error("a sandbox is not confined as it must be", sandbox=sandbox.sandbox_id, why=found)
        message = f"a sandbox was not confined as it must be, and was removed: {'; '.join(found)}"
        raise SandboxGone(EndReason.CAPABILITY_UNAVAILABLE, message)


async def bring_in(sandbox: Sandbox, name: str, content: bytes) -> None:
    """Writes a file into the home. Raises InvalidRequest where that cannot be, SandboxGone."""
    try:
        async with sandbox.link.flows.open(WriteFile(name, len(content))) as flow:
            await flow.send(content)
            await flow.done()
    except FlowFailed as failed:
        raise InvalidRequest(f"file {failed}") from None
    except FlowBroken:
        raise SandboxGone(EndReason.START_FAILED, "the agent has gone while files were brought in") from None


async def within(seconds: float, work: Coroutine[Any, Any, Any], failure: str) -> Any:
    """What the work gives; SandboxGone, with the failure's words, where it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        message = f"{failure} within {seconds:.0f} s"
        raise SandboxGone(EndReason.START_FAILED, message) from None
