"""Environments for those who ask: found, or made once for all who want the same at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments import apart
from cellyard_controller.environments.conda_fetching import fetched_conda
from cellyard_controller.environments.definition import Definition, Interpreter, for_interpreter, name_of
from cellyard_controller.environments.fetching import SourcesAlone, fetched
from cellyard_controller.environments.shelf import EnvironmentKey, Shelf, copy_plain, copy_prefix, key_of
from cellyard_controller.environments.sources import Builder
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import EnvironmentFailed, Refused
from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.runtimes import Runtime, Template
from cellyard_controller.tallies import Tally

STAGE = "environment"
_MOST_BUILT = 20
"""Packages of one environment that are built."""
_MOST_NAMED = 20
Report = Callable[[str, str], None]
"""Progress: a stage for programs and a sentence for people."""

log = structlog.get_logger()


class Environments:
    """All environments of one controller."""

    def __init__(self, config: EnvironmentsConfig, folder: Path, workshop: Workshop) -> None:
        self._config, self._workshop = config, workshop
        self._shelf = Shelf(folder)
        self.outcomes = Tally()
        """Of those that were to be made: `made` or `failed`."""
        self._making: dict[EnvironmentKey, _Making] = {}
        self._held: Counter[EnvironmentKey] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._slots = asyncio.Semaphore(config.at_once)

    def open(self, living: Collection[SandboxId]) -> None:
        """At the controller's start; `living`: sandboxes that go on."""
        self._shelf.open(living)

    async def close(self) -> None:
        """Gives up what is being made. Who waits for it goes on waiting: a successor may take its executions up."""
        self._closed = True
        for task in list(self._tasks):
            if not task.cancelling():  # a second time would disturb its clearing up
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def held(
        self, tenant: TenantName, definition: Definition, runtime: Runtime, template: Template, report: Report
    ) -> AsyncIterator[EnvironmentKey]:
        """A tenant's environment, made where it is not there; it stays there meanwhile.

        Raises EnvironmentFailed, CapabilityUnavailable. A failure is nobody's but those who waited for it: who asks
        again has it tried again.
        """
        report(STAGE, "looking for the environment")
        try:
            interpreter = await self._workshop.interpreter(runtime, template)
        except OSError as failed:
            raise EnvironmentFailed(f"the image's Python cannot be asked: {failed}") from failed
        key = key_of(tenant, name_of(definition, interpreter))
        self._held[key] += 1
        try:
            await self._ready(key, definition, interpreter, runtime, template, report)
            yield key
        finally:
            self._held[key] -= 1

    def site(self, key: EnvironmentKey) -> Path | None:
        """What a sandbox of this environment mounts; None for no environment."""
        return self._shelf.site(key) if key else None

    def use(self, key: EnvironmentKey, sandbox: SandboxId) -> None:
        """A sandbox is about to mount it: it stays there until `unuse`."""
        if key:
            self._shelf.use(key, sandbox)

    def used_by(self, sandbox: SandboxId) -> EnvironmentKey:
        """What a sandbox has, whichever controller started it; "" for none."""
        return self._shelf.used_by(sandbox)

    def unuse(self, sandbox: SandboxId) -> None:
        """A sandbox is gone, whatever it had."""
        self._shelf.unuse(sandbox)

    async def tidy(self) -> None:
        """Removes what is too old, or too much."""
        held = {key for key, count in self._held.items() if count} | set(self._making)
        gone = await asyncio.to_thread(self._shelf.tidy, held, self._config.store, self._config.max_age)
        for key in gone:
            log.info("environment removed", environment=key)

    async def _ready(
        self,
        key: EnvironmentKey,
        definition: Definition,
        interpreter: Interpreter,
        runtime: Runtime,
        template: Template,
        report: Report,
    ) -> None:
        if self._closed:
            await asyncio.get_running_loop().create_future()
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making()
            wanted = for_interpreter(definition, interpreter)
            making.task = asyncio.create_task(self._make(key, wanted, interpreter, runtime, template, making.report))
            self._tasks.add(making.task)
            making.task.add_done_callback(partial(self._made, key, making))
        try:
            await making.wait(report)
        finally:
            if making.unwanted:
                self._forget(key, making)
                making.task.cancel()

    def _made(self, key: EnvironmentKey, making: _Making, task: asyncio.Task[None]) -> None:
        self._forget(key, making)
        self._tasks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.warning("environment not made", environment=key, why=str(failed))
            self.outcomes.add("failed")

    def _forget(self, key: EnvironmentKey, making: _Making) -> None:
        """Who asks from now on does not join it."""
        if self._making.get(key) is making:
            del self._making[key]

    async def _make(
        self,
        key: EnvironmentKey,
        definition: Definition,
        interpreter: Interpreter,
        runtime: Runtime,
        template: Template,
        report: Callable[[str], None],
    ) -> None:
        if await asyncio.to_thread(self._shelf.whole, key):
            return
        report("waiting for others' environments" if self._slots.locked() else "choosing packages")
        async with self._slots:
            with self._shelf.part(key) as site:
                builder = Builder(self._workshop, runtime, template, interpreter, self._config)
                if definition.tool == "conda":
                    packages = await self._fetch_conda(definition, interpreter, site, report)
                else:
                    packages = await self._fetch(definition, interpreter, builder, site, report)
                report("compiling and checking")
                await self._workshop.finish(
                    runtime, template, site, within=self._config.build_timeout, size=self._config.size
                )
                await asyncio.to_thread(self._shelf.put, key, site, packages)
        log.info("environment made", environment=key, packages=len(packages))
        self.outcomes.add("made")
        await self.tidy()

    async def _fetch(
        self,
        definition: Definition,
        interpreter: Interpreter,
        builder: Builder,
        site: Path,
        report: Callable[[str], None],
    ) -> tuple[str, ...]:
        """Fetches packages into a folder; those that have no wheel are built, as they turn up."""
        built: dict[str, Path] = {}
        tried: set[str] = set()
        async with apart.scratch() as wheels:
            while True:
                try:
                    report(f"fetching {_told(definition)}")
                    async with fetched(definition, interpreter, self._config, built) as found:
                        report(f"unpacking {len(found.packages)} packages")
                        await asyncio.to_thread(copy_plain, found.site, site)
                        return found.packages
                except SourcesAlone as alone:
                    new = [package for package in alone.packages if package not in tried]
                    if not new or len(tried) >= _MOST_BUILT:
                        raise
                    for package in new:
                        tried.add(package)
                        report(f"building {package}, which has no wheel")
                        wheel = await builder.wheel(package, definition.requirements, wheels)
                        built[wheel.name] = wheel

    async def _fetch_conda(
        self, definition: Definition, interpreter: Interpreter, site: Path, report: Callable[[str], None]
    ) -> tuple[str, ...]:
        report(f"fetching {_told(definition)}")
        async with fetched_conda(definition, interpreter, self._config) as found:
            for package in found.not_run[:_MOST_NAMED]:
                report(f"the post-link script of {package[:100]} is not run")
            report(f"unpacking {len(found.packages)} packages")
            await asyncio.to_thread(copy_prefix, found.site, site)
            return found.packages


class _Making:
    """One that is looked for, or made, and who waits for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self._reports: list[Report] = []
        self._last = ""

    def report(self, message: str) -> None:
        """Tells everybody who waits."""
        self._last = message
        for report in list(self._reports):
            report(STAGE, message)

    @property
    def unwanted(self) -> bool:
        """Whether it goes on and nobody waits for it any more."""
        return not self._reports and not self.task.done()

    async def wait(self, report: Report) -> None:
        """Until it is there. Raises EnvironmentFailed."""
        self._reports.append(report)
        if self._last:
            report(STAGE, self._last)
        try:
            await asyncio.shield(self.task)
        except asyncio.CancelledError:
            mine = asyncio.current_task()
            if not self.task.cancelled() or (mine is not None and mine.cancelling()):
                raise
            await asyncio.get_running_loop().create_future()  # see close()
        except Refused:
            raise
        except Exception as failed:  # a full disk, or a defect here: whoever waits must not wait for ever
            raise EnvironmentFailed(f"the environment cannot be made: {failed!r}") from failed
        finally:
            self._reports.remove(report)


def _told(definition: Definition) -> str:
    count = len(definition.requirements)
    few = ", ".join(definition.requirements[:3])
    return f"{few} and {count - 3} more" if count > 3 else few or "nothing"
