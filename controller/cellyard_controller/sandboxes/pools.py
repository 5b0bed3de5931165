"""The pools: how many warm sandboxes each is to have now, from what was claimed of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from cellyard_controller.clock import steady
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.plans import Kind, Known, Need, Stage
from cellyard_controller.sandboxes.pool import Bounds, Demand, PoolView


class Pools:
    """One pool for each kind that is configured to have one."""

    def __init__(self, catalogue: Catalogue, schedule: Callable[[], None]) -> None:
        """`schedule`: called when a pool's pause is over."""
        self._catalogue, self._schedule = catalogue, schedule
        self._bounds = catalogue.pools()
        self._demand: defaultdict[Kind, Demand] = defaultdict(Demand)
        self._waits: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Wakes nobody any more."""
        if self._waits is not None:
            self._waits.cancel()

    def keep(self, kind: Kind, bounds: Bounds) -> None:
        """From now on, one of sandboxes with this environment, in place of one with another environment."""
        for known in [each for each in self._bounds if replace(each, environment=kind.environment) == kind]:
            if known != kind:
                del self._bounds[known]
                self._demand.pop(known, None)
        self._bounds[kind] = bounds

    def asked(self, kind: Kind) -> None:
        """Somebody asks for one of this kind."""
        self._counted(kind).asked(time.monotonic())

    def claimed(self, kind: Kind, *, hit: bool) -> None:
        """A warm one was there for them, or none was."""
        self._counted(kind).claimed(time.monotonic(), hit=hit)

    def made(self, kind: Kind, lead_s: float) -> None:
        """One has become warm, so many seconds after it was begun."""
        self._counted(kind).made(lead_s)

    def failed(self, kind: Kind) -> None:
        """One for the pool did not come up."""
        self._counted(kind).failed(time.monotonic())

    def targets(self, known: Sequence[Known]) -> dict[Kind, tuple[int, Need]]:
        """How many each is to have, and what one of them takes."""
        now, in_use = time.monotonic(), Counter(each.kind for each in known if each.stage is Stage.HELD)
        return {
            kind: (self._demand[kind].target(now, bounds, in_use[kind]), self._catalogue.need(kind))
            for kind, bounds in self._bounds.items()
        }

    def pausing(self) -> list[Kind]:
        """Those for which nothing is made now."""
        now = time.monotonic()
        pauses = {kind: self._demand[kind].pause(now) for kind in self._bounds}
        waiting = [kind for kind, pause in pauses.items() if pause]
        if waiting:
            self._schedule_in(min(pauses[kind] for kind in waiting))
        return waiting

    def failing(self) -> bool:
        """Nothing comes up, whatever it is: the last try of each pool that is never empty has failed."""
        now = time.monotonic()
        kept = [kind for kind, bounds in self._bounds.items() if bounds.least]
        return bool(kept) and all(self._demand[kind].failing(now) for kind in kept)

    def views(self, known: Sequence[Known]) -> list[PoolView]:
        """Each as it stands."""
        now, wall, targets = time.monotonic(), steady(), self.targets(known)
        views = []
        for kind in self._bounds:
            by_stage = Counter(each.stage for each in known if each.kind == kind)
            made = [each.since for each in known if each.kind == kind and each.stage is Stage.WARM]
            views.append(
                PoolView(
                    kind,
                    self._demand[kind],
                    target=targets[kind][0],
                    warm=by_stage[Stage.WARM],
                    making=by_stage[Stage.MAKING],
                    claimed=by_stage[Stage.HELD],
                    claim_rate=self._demand[kind].rate(now),
                    oldest_s=wall - min(made) if made else 0.0,
                )
            )
        return views

    def _counted(self, kind: Kind) -> Demand:
        """The demand for a kind; none is kept of those without a pool, of which tenants can make any number."""
        return self._demand[kind] if kind in self._bounds else Demand()

    def _schedule_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._waits is None or self._waits.when() > loop.time() + seconds:
            self.stop()
            self._waits = loop.call_later(seconds, self._over)

    def _over(self) -> None:
        self._waits = None
        self._schedule()
