"""What takes a while to find out, asked again and again: so that whoever reads metrics waits for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping

import structlog

from cellyard_controller.config import Config
from cellyard_controller.runtimes import CapabilityFact
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.web import labelled

EVERY = 10.0
"""Seconds between two rounds. A round asks the engine how it is; canaries start only where something has changed."""

MEASURE_EVERY = 60.0
"""Seconds between two looks at how large the data is."""

log = structlog.get_logger()


class Standing:
    """The last answers of all runtimes, and of the store. `run` asks."""

    def __init__(self, catalogue: Catalogue, config: Config, store: Store) -> None:
        self._catalogue, self._config, self._store = catalogue, config, store
        self.ready: dict[str, bool] = {}
        """By runtime; one that was not asked yet is not ready."""
        self.facts: dict[tuple[str, str, str], list[CapabilityFact]] = {}
        """By runtime, template and network policy."""
        self.notebooks: labelled.Counts = {}
        self.sandboxes: labelled.Counts = {}
        """By the labels of `http.labels`."""
        self.bytes_kept: Mapping[tuple[str, ...], float] = {}
        self.bytes_free: Mapping[tuple[str, ...], float] = {}
        self._measure_at = 0.0

    def why_not_ready(self) -> str:
        """Why new work cannot be done now; empty where it can."""
        if self._store.failing:
            return "the store does not take writes"
        runtime = self._config.runtime[0]
        return "" if self.ready.get(runtime) else f"the runtime {runtime} is not ready"

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            await self._try_store()
            for runtime in self._config.runtime:
                try:
                    self.ready[runtime], _ = await self._catalogue.ready([runtime])
                    for template, network in self._offered(runtime):
                        found = await self._catalogue.capabilities(runtime, template, network)
                        self.facts[runtime, template, network] = found
                except Exception:  # a runtime's defect must not keep the others from being asked
                    self.ready[runtime] = False
                    log.exception("a runtime could not be asked", runtime=runtime)
            await self._count_labels()
            if time.monotonic() >= self._measure_at:
                await self._measure()
                self._measure_at = time.monotonic() + MEASURE_EVERY
            await asyncio.sleep(EVERY)

    async def _try_store(self) -> None:
        """A store that has refused a write, and gets none meanwhile, would be taken for a broken one for ever."""
        if self._store.failing:
            try:
                await self._store.try_writing()
            except StoreFailed:
                pass  # it says so itself

    async def _measure(self) -> None:
        """What the data takes on disk, and what is left there."""
        try:
            database, files, free = await asyncio.to_thread(self._store.measure)
        except (OSError, StoreFailed) as failed:
            log.warning("the data folder cannot be measured", why=str(failed))
        else:
            self.bytes_kept = {("database",): database, ("files",): files}
            self.bytes_free = {(): free}

    async def _count_labels(self) -> None:
        labels = self._config.http.labels
        if not labels:
            return
        try:
            self.notebooks, self.sandboxes = await self._store.read(lambda c: labelled.count(c, labels))
        except StoreFailed as failed:
            log.warning("notebooks cannot be counted by their labels", why=str(failed))

    def _offered(self, runtime: str) -> Iterator[tuple[str, str]]:
        """Templates with the policies that the operator allows."""
        for name, template in self._config.templates.items():
            yield name, "none"
            if runtime == "process":
                continue  # it confines no network
            if template.allow:
                yield name, "allowlist"
            if template.network_open:
                yield name, "open"
