"""What the store knows against what runtimes have: at the start, and again whenever a runtime did not answer.

Known means that the instance's id stands in the store. What bears this controller's label and is not known was made by
it and never stored, or made by somebody who forged the label: both are removed. What bears no label of ours, or another
controller's, is never listed and never touched. `plan` and `compare` decide and are pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cellyard_controller.runtimes import Instance, Runtime, RuntimeFailed, Template
from cellyard_controller.sandboxes import endings
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.link_messages import KernelReport
from cellyard_controller.sandboxes.records import SandboxRecord
from cellyard_controller.sandboxes.sandbox import Sandbox

NOT_OUTLIVED = "the sandbox did not outlive the controller"
ROUND_EVERY = 300.0
"""Seconds between two rounds where nobody asks for one."""
AGAIN_AFTER = (10.0, 60.0)
"""Seconds after a round that was asked for: a runtime that was silent may do late what it was told before."""
_RETRY_AFTER = (0.5, 1.0, 2.0, 5.0, 10.0)

log = structlog.get_logger()


@dataclass(slots=True)
class Plan:
    """What becomes of each at the start."""

    adopt: list[SandboxRecord] = field(default_factory=list)
    take_up: list[SandboxRecord] = field(default_factory=list)
    """Warm ones; see `why_not_warm`."""
    gone: list[tuple[SandboxRecord, EndReason, str]] = field(default_factory=list)
    remove: list[tuple[str, str]] = field(default_factory=list)
    """Runtime and instance id."""


def plan(living: Iterable[SandboxRecord], found: Mapping[str, Sequence[Instance] | None]) -> Plan:
    """`found`: what each runtime has; None where it did not answer.

    Sandboxes of a runtime that did not answer are adopted or taken up unseen: their agents may well be there, and have
    output to tell. A round looks at them as soon as the runtime answers.
    """
    made = Plan()
    left = {(name, each.instance_id): each for name, listed in found.items() for each in listed or ()}
    for record in living:
        instance = left.pop((record.runtime, record.instance_id), None)
        unseen = record.runtime in found and found[record.runtime] is None and record.instance_id != ""
        runs = unseen or (instance is not None and instance.running)
        if record.state is SandboxState.CLAIMED and runs:
            made.adopt.append(record)
            continue
        if record.state is SandboxState.WARM and record.asked is not None and runs:
            made.take_up.append(record)
            continue
        reason, message = EndReason.RUNTIME_LOST, NOT_OUTLIVED
        if instance is not None and not instance.running:
            reason, message = why_ended(instance), describe(instance, record.asked)
        made.gone.append((record, reason, message))
        if instance is not None:
            made.remove.append((record.runtime, instance.instance_id))
    made.remove += left
    return made


def why_not_warm(untouched: bool, kernel: KernelReport, generation: int) -> str:
    """Why one that the store has as warm may be given to nobody, by what its agent says of it; "" where it may.

    The store alone does not tell: a controller may have died after it had told the agent whose the sandbox is, or had
    brought files in, and before it had stored that. `generation`: of the kernel that was stored.
    """
    if not untouched:
        return "a controller died while it gave it away"
    if kernel.state != "ready":
        return "its kernel died while no controller was there"
    if kernel.generation != generation:
        return "it has another kernel than it had"
    return ""


def compare(sandboxes: Collection[Sandbox], listed: Iterable[Instance]) -> tuple[list[Sandbox], list[str]]:
    """Of one runtime's sandboxes those that are not there or do not run, and the instances that nobody knows.

    An instance whose id is not told yet is known by the id of a sandbox that has no instance.
    """
    by_instance = {each.instance_id: each for each in listed}
    known = {each.instance_id for each in sandboxes}
    coming = {each.sandbox_id for each in sandboxes if not each.instance_id}
    ended = [
        each
        for each in sandboxes
        if each.instance_id and not (each.instance_id in by_instance and by_instance[each.instance_id].running)
    ]
    unknown = [
        name for name, instance in by_instance.items() if name not in known and instance.sandbox_id not in coming
    ]
    return ended, unknown


def why_ended(instance: Instance) -> EndReason:
    """The typed reason of an instance's end."""
    return EndReason.OOM if instance.oom_killed else EndReason.EXIT


def describe(instance: Instance, template: Template | None) -> str:
    """An instance's end in a sentence."""
    if instance.oom_killed:
        return endings.out_of_memory(template)
    return "the sandbox ended" + (f" with exit code {instance.exit_code}" if instance.exit_code is not None else "")


class Keeper(Protocol):
    """Who has the sandboxes: the supervisor."""

    def sandboxes(self) -> list[Sandbox]:
        """Every sandbox that has not ended."""

    def look_after(self, sandbox: Sandbox) -> None:
        """Ends a sandbox whose instance has ended, sooner or later."""

    def remove(self, runtime: str, instance_id: str) -> None:
        """Removes an instance that is nobody's, sooner or later."""


class Rounds:
    """Compares one runtime with what is known: now and then, and soon after somebody found that it does not answer."""

    def __init__(self, runtime: Runtime, controller_id: str, keeper: Keeper) -> None:
        self._runtime, self._controller_id, self._keeper = runtime, controller_id, keeper
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Something may have been missed: a round is made as soon as the runtime answers."""
        self._wanted.set()

    async def run(self) -> None:
        """Goes its rounds until cancelled."""
        failures = 0
        since_wanted = len(AGAIN_AFTER)
        while True:
            pause = AGAIN_AFTER[since_wanted] if since_wanted < len(AGAIN_AFTER) else ROUND_EVERY
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
                since_wanted = 0
            except TimeoutError:
                since_wanted += 1
            self._wanted.clear()
            try:
                await self._round()
                failures = 0
            except RuntimeFailed as failed:
                if not failures:
                    log.warning("a runtime does not answer", runtime=self._runtime.name, why=str(failed))
                self._wanted.set()
                await asyncio.sleep(_RETRY_AFTER[min(failures, len(_RETRY_AFTER) - 1)])
                failures += 1

    async def _round(self) -> None:
        before = self._mine()
        listed = await self._runtime.instances(self._controller_id)
        # What came or went while the runtime made its list is no news in either direction.
        after = {each.sandbox_id for each in self._mine()}
        ended, _ = compare(before, listed)
        _, unknown = compare([*before, *self._mine()], listed)
        for sandbox in ended:
            if sandbox.sandbox_id in after and sandbox.state is not SandboxState.STOPPING:
                self._keeper.look_after(sandbox)
        for instance_id in unknown:
            log.info("removing an unknown sandbox of ours", instance=instance_id)
            self._keeper.remove(self._runtime.name, instance_id)

    def _mine(self) -> list[Sandbox]:
        return [each for each in self._keeper.sandboxes() if each.runtime is self._runtime]
