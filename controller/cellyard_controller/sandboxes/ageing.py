"""Which warm sandboxes nobody should be given any more."""

from __future__ import annotations

from collections.abc import Iterable

from cellyard_controller.clock import steady
from cellyard_controller.runtimes import RuntimeFailed, Template
from cellyard_controller.sandboxes.sandbox import Sandbox


def find_too_old(sandboxes: Iterable[Sandbox], max_age: float) -> None:
    """Marks those that were made longer ago than this, in seconds."""
    for sandbox in sandboxes:
        sandbox.outdated = sandbox.outdated or steady() - sandbox.created_at > max_age


async def find_replaced(sandboxes: Iterable[Sandbox]) -> None:
    """Marks those that would be made of something else now."""
    makes: dict[tuple[str, Template], str] = {}
    for sandbox in sandboxes:
        key = (sandbox.runtime.name, sandbox.template)
        try:
            if key not in makes:
                makes[key] = await sandbox.runtime.makings(sandbox.template)
        except RuntimeFailed:
            continue  # the engine does not answer: what is warm stays so
        sandbox.outdated = sandbox.outdated or makes[key] != sandbox.made_of
