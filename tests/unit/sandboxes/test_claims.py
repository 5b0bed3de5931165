"""A claim, and whoever waits for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cellyard_controller.ids import NotebookKey, NotebookRef, TenantName
from cellyard_controller.sandboxes.claims import Claim, Listener
from cellyard_controller.sandboxes.plans import Kind, Need
from cellyard_controller.sandboxes.sandbox import ClaimRequest, KernelSettings, Sandbox

KIND = Kind("docker", "default", "none", "python", "uv:prewarmed")


def claim() -> Claim:
    settings = KernelSettings("python", "uv:prewarmed", "docker", "default", "none")
    request = ClaimRequest(NotebookKey(1), NotebookRef(TenantName("anne"), cast(Any, "nb")), settings)
    return Claim(1, request, KIND, Need(1), Listener(lambda *_: None, lambda _: None))


async def test_one_that_is_granted_in_the_moment_in_which_its_waiter_is_cancelled_has_its_sandbox() -> None:
    mine, sandbox = claim(), cast(Sandbox, object())
    waiting = asyncio.ensure_future(mine.sandbox())
    await asyncio.sleep(0)
    waiting.cancel()
    mine.grant(sandbox)  # before the waiter has heard of either
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert mine.given is sandbox, "whoever waited lets go of it"
