"""What takes a while to find out, asked again and again: so that whoever reads metrics waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import structlog

from cellyard_controller.config import Config
from cellyard_controller.runtimes import CapabilityFact
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.web import labelled

EVERY = 10.0
"""Seconds between two rounds. A round asks the engine how it is; canaries start only where something has changed."""

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

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
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
            await asyncio.sleep(EVERY)

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
