"""What comes: tenants of very different sizes, bursts, think times, environments with a long tail, what fails."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.plans import Bounds, Kind, Need

GIB = 1 << 30
PYTHON = Kind("docker", "default", "none", "python", "uv:prewarmed")
DENO = replace(PYTHON, kernel_type="deno", env_source="deno")
LARGE = replace(PYTHON, template="large")
NEEDS = {"default": Need(1, GIB, 1.0), "large": Need(1, 4 * GIB, 2.0)}
UNIT = NEEDS["large"]


@dataclass(frozen=True)
class Size:
    """One simulation. Times in seconds."""

    nodes: int = 10_000
    notebooks: int = 1_000_000
    seconds: float = 900.0
    """In which all notebooks come for the first time."""
    slots: int = 24
    """GiB of each node."""
    usual_load: float = 0.75
    """The part of all memory that is used on average before the crowd comes."""
    crowd: float = 0.2
    """The part of the notebooks that comes from a few tenants at one moment, more than there is room for."""
    crowd_tenants: int = 20
    report_every: float = 9.0
    deciders: int = 100
    """Controllers that place: each knows only of its own placements since a node's last report."""
    lost: float = 0.005
    drained: float = 0.01
    lying: float = 0.002
    """Nodes that say they are ten times as large as they are."""
    broken: float = 0.002
    """Nodes on which nothing comes up."""
    silent: float = 0.02
    """Reports that are missing, with the four after them."""
    seed: int = 1

    @property
    def crowd_at(self) -> float:
        """When the crowd comes."""
        return 0.25 * self.seconds

    @property
    def lease_s(self) -> float:
        """After three reports that are missing a node is lost, or says nothing to others' quotas."""
        return 3 * self.report_every


@dataclass(frozen=True)
class Arrival:
    """A notebook that wants a sandbox."""

    at: float
    notebook: int
    tenant: TenantName
    kind: Kind
    hold_s: float
    """For how long it keeps it: cells and think times together."""
    last_node: str = ""
    avoid: frozenset[str] = frozenset()
    asked_at: float = 0.0


class Load:
    """Tenants, and what they ask for."""

    def __init__(self, size: Size) -> None:
        self._size, self._chance = size, random.Random(size.seed)
        count = max(10, size.notebooks // 200)
        self._tenants = [TenantName(f"t{number}") for number in range(count)]
        self._weights = list(accumulate(1 / (number + 5) for number in range(count)))
        self.crowd = [TenantName(f"crowd{number}") for number in range(size.crowd_tenants)]
        self._usual = int(size.notebooks * (1 - size.crowd))
        memory = 0.9 * 1 + 0.1 * 4
        self.hold_s = size.usual_load * size.nodes * size.slots * size.seconds / (self._usual * 1.3 * memory)
        self.quotas = {name: self._quota(name, number) for number, name in enumerate(self._tenants)}
        for number, name in enumerate(self.crowd):
            self.quotas[name] = Bounds(weight=1.0 + number % 2)

    def _quota(self, name: TenantName, number: int) -> Bounds:
        """Every other tenant has one, somewhat below what it would use on average if nobody held it back."""
        if number % 2:
            return Bounds()
        part = (1 / (number + 5)) / self._weights[-1]
        in_use = part * self._usual * 1.3 * self.hold_s / self._size.seconds
        return Bounds(sandboxes=max(3, int(0.9 * in_use)))

    def arrivals(self) -> Iterator[Arrival]:
        """All first ones, in their order: a third in bursts of one tenant, the rest evenly."""
        size, chance = self._size, self._chance
        notebook, now, crowd = 0, 0.0, False
        pace = self._usual / size.seconds
        while notebook < self._usual:
            if not crowd and now >= size.crowd_at:
                crowd = True
                for number in range(self._usual, size.notebooks):
                    tenant = self.crowd[number % len(self.crowd)]
                    yield Arrival(now, number, tenant, PYTHON, self._hold())
            tenant = chance.choices(self._tenants, cum_weights=self._weights)[0]
            burst = 1 + int(chance.expovariate(1 / 25)) if chance.random() < 0.02 else 1
            for _ in range(min(burst, self._usual - notebook)):
                yield Arrival(now, notebook, tenant, self._kind(), self._hold())
                notebook += 1
                now += chance.expovariate(pace)

    def again(self, arrival: Arrival, now: float, node: str) -> Arrival | None:
        """Who comes back to the same notebook, after a while."""
        if self._chance.random() < 0.3:
            at = now + self._chance.expovariate(1 / self.hold_s)
            return replace(arrival, at=at, hold_s=self._hold(), last_node=node, avoid=frozenset())
        return None

    def _hold(self) -> float:
        return self._chance.expovariate(1 / self.hold_s)

    def _kind(self) -> Kind:
        which = self._chance.random()
        if which < 0.6:
            return PYTHON
        if which < 0.7:
            return DENO
        if which < 0.8:
            return LARGE
        number = min(20_000, int(self._chance.paretovariate(0.9)))
        return replace(PYTHON, env_source="uv:pyproject", environment=f"env{number}")


def need(kind: Kind) -> Need:
    """What a sandbox of a kind takes."""
    return NEEDS[kind.template]
