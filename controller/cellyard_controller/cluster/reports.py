"""What a node says of itself with each renewal of its lease: what it has, what is used, and by whom. Pure.

Reports come out of a database that other machines write to: what is read is bounded and typed, and what cannot be is
clamped or left out, with the reason. A report that says more than can be costs its own node, and no other one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cellyard_controller import json_text
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.plans import NOTHING, Bounds, Kind, Need, Outline, Stage

MAX_CHARACTERS = 1_000_000
"""Of one report; a longer one is not read."""
MAX_KINDS = 200
MAX_ENVIRONMENTS = 500
MAX_TENANTS = 5_000
_MAX_WORD = 300
_MAX_SANDBOXES = 100_000
_MAX_BYTES = 2**50
_MAX_CPUS = 1e5
_KIND_WORDS = 6
_QUOTAS = ("sandboxes", "memory", "cpu")
"""What a claim waits for that its own tenant has."""


@dataclass(frozen=True, slots=True)
class TenantUse:
    """A tenant on one node."""

    used: Need
    """Of its sandboxes there, those that are being made for it too."""
    waiting: int = 0
    """Claims that wait for its own quota."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node."""

    state: NodeState
    capacity: Bounds
    """Of all its sandboxes; without a bound on processors they share what there is."""
    used: Need = NOTHING
    """All that takes room, warm sandboxes too."""
    warm: Mapping[Kind, int] = field(default_factory=dict)
    environments: frozenset[str] = frozenset()
    """Prepared ones, by their names."""
    waiting: int = 0
    """Claims that wait for room."""
    tenants: Mapping[TenantName, TenantUse] = field(default_factory=dict)
    failing: bool = False
    """Nothing that is made there comes up."""

    def fits(self, need: Need, more: Need = NOTHING) -> bool:
        """Whether so much has room beside what is used, and `more` beside that."""
        return not self.capacity.exceeded(self.used + more + need)

    def text(self) -> str:
        """As it is stored. What is beyond the bounds is left out, the smallest first."""
        warm = sorted(self.warm.items(), key=lambda item: -item[1])[:MAX_KINDS]
        tenants = sorted(self.tenants.items(), key=lambda item: (-item[1].used.sandboxes, -item[1].waiting))
        return json.dumps(
            {
                "capacity": [self.capacity.sandboxes, self.capacity.memory_bytes, self.capacity.cpus],
                "used": _numbers(self.used),
                "warm": [[*_words(kind), count] for kind, count in warm],
                "environments": sorted(self.environments)[:MAX_ENVIRONMENTS],
                "waiting": self.waiting,
                "failing": self.failing,
                "tenants": {name: [*_numbers(use.used), use.waiting] for name, use in tenants[:MAX_TENANTS]},
            },
            separators=(",", ":"),
        )


def describe(here: Outline, environments: Collection[str], state: NodeState) -> NodeReport:
    """The report of a node where things are so."""
    snapshot, waits = here.snapshot, here.waits
    tenants: dict[TenantName, Need] = {}
    used, warm = NOTHING, Counter[Kind]()
    for known in snapshot.known:
        used += known.need
        if known.tenant is not None and known.stage in (Stage.HELD, Stage.MAKING):
            tenants[known.tenant] = tenants.get(known.tenant, NOTHING) + known.need
        if known.stage is Stage.WARM and known.claim is None and not known.outdated:
            warm[known.kind] += 1
    reasons = [(each.tenant, waits[each.claim].reason) for each in snapshot.waiting if each.claim in waits]
    own = Counter(tenant for tenant, reason in reasons if reason in _QUOTAS)
    return NodeReport(
        state,
        snapshot.machine,
        used,
        warm,
        frozenset(environments),
        waiting=sum(reason == "capacity" for _, reason in reasons),
        tenants={name: TenantUse(tenants.get(name, NOTHING), own[name]) for name in tenants.keys() | own.keys()},
        failing=here.failing,
    )


def read(text: str, state: str) -> tuple[NodeReport, tuple[str, ...]]:
    """A node's report from its row, and what was wrong with it.

    One that is nothing of the kind has no capacity: nothing is placed there.
    """
    reading = _Reading()
    return reading.report(text, state), tuple(reading.faults)


class _Reading:
    """One report being read."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def report(self, text: str, state: str) -> NodeReport:
        found = self._object(text)
        capacity = self._bounds(found.get("capacity"))
        used = self._need(found.get("used"), "used")
        cpus = _MAX_CPUS if capacity.cpus is None else capacity.cpus
        total = Need(capacity.sandboxes or 0, capacity.memory_bytes or 0, cpus)
        return NodeReport(
            self._state(state),
            capacity,
            used,
            self._warm(found.get("warm"), used.sandboxes),
            frozenset(self._texts(found.get("environments"))),
            int(self._number(found.get("waiting", 0), _MAX_SANDBOXES, "waiting")),
            self._tenants(found.get("tenants"), total),
            found.get("failing", False) is not False,
        )

    def _object(self, text: str) -> dict[str, Any]:
        if len(text) > MAX_CHARACTERS:
            self.faults.append(f"it has {len(text)} characters, more than {MAX_CHARACTERS}")
            return {}
        try:
            found = json_text.parse(text)
        except ValueError as bad:
            self.faults.append(f"it is no JSON: {bad}"[:_MAX_WORD])
            return {}
        if not isinstance(found, dict):
            self.faults.append("it is no object")
            return {}
        return found

    def _state(self, state: str) -> NodeState:
        try:
            return NodeState(state)
        except ValueError:
            self.faults.append(f"unknown state {state[:40]!r}: it counts as away")
            return NodeState.AWAY

    def _bounds(self, value: object) -> Bounds:
        if not isinstance(value, list) or len(value) != 3:
            self.faults.append("it says nothing of its capacity")
            return Bounds(0, 0, 0.0)
        cpus = None if value[2] is None else self._number(value[2], _MAX_CPUS, "capacity: cpus")
        return Bounds(
            int(self._number(value[0], _MAX_SANDBOXES, "capacity: sandboxes")),
            int(self._number(value[1], _MAX_BYTES, "capacity: memory")),
            cpus,
        )

    def _need(self, value: object, where: str) -> Need:
        if not isinstance(value, list) or len(value) < 3:
            self.faults.append(f"{where}: not three numbers")
            return NOTHING
        return Need(
            int(self._number(value[0], _MAX_SANDBOXES, f"{where}: sandboxes")),
            int(self._number(value[1], _MAX_BYTES, f"{where}: memory")),
            self._number(value[2], _MAX_CPUS, f"{where}: cpus"),
        )

    def _number(self, value: object, most: float, where: str) -> float:
        """Between nothing and the most that can be; what is no number is nothing."""
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            self.faults.append(f"{where}: no number")
            return 0
        if not 0 <= value <= most:
            self.faults.append(f"{where}: not between 0 and {most:g}")
            # More than can be is no proof of room: such a node has none, and is not believed to have the most.
            return 0
        return value

    def _warm(self, value: object, sandboxes: int) -> dict[Kind, int]:
        warm: dict[Kind, int] = {}
        for entry in self._entries(value, MAX_KINDS, "warm"):
            if not isinstance(entry, list) or len(entry) != _KIND_WORDS + 1 or not all(map(_is_word, entry[:-1])):
                self.faults.append("warm: an entry is no kind with a number")
                continue
            warm[Kind(*entry[:-1])] = int(self._number(entry[-1], _MAX_SANDBOXES, "warm"))
        if sum(warm.values()) > sandboxes:
            self.faults.append("warm: more than there are sandboxes, so none of it is believed")
            return {}
        return {kind: count for kind, count in warm.items() if count}

    def _tenants(self, value: object, total: Need) -> dict[TenantName, TenantUse]:
        """Who has how much, together no more than the node has: else one node could use up quotas everywhere."""
        if value is not None and not isinstance(value, dict):
            self.faults.append("tenants: no object")
            return {}
        tenants: dict[TenantName, TenantUse] = {}
        left = total
        for name, entry in list((value or {}).items())[:MAX_TENANTS]:
            if not _is_word(name) or not isinstance(entry, list) or len(entry) != 4:
                self.faults.append("tenants: an entry is not a name with four numbers")
                continue
            used = self._need(entry, "tenants")
            believed = Need(
                min(used.sandboxes, left.sandboxes),
                min(used.memory_bytes, left.memory_bytes),
                min(used.cpus, left.cpus),
            )
            if believed != used:
                self.faults.append("tenants: together they use more than the node has")
            left -= believed
            waiting = int(self._number(entry[3], _MAX_SANDBOXES, "tenants: waiting"))
            tenants[TenantName(name)] = TenantUse(believed, waiting)
        return tenants

    def _texts(self, value: object) -> list[str]:
        entries = self._entries(value, MAX_ENVIRONMENTS, "environments")
        words = [entry for entry in entries if _is_word(entry)]
        if len(words) < len(entries):
            self.faults.append("environments: an entry is no name")
        return words

    def _entries(self, value: object, most: int, where: str) -> list[Any]:
        if not isinstance(value, list | None):
            self.faults.append(f"{where}: no list")
            return []
        if len(value or ()) > most:
            self.faults.append(f"{where}: more than {most}, the rest is left out")
        return (value or [])[:most]


def _numbers(need: Need) -> list[float]:
    return [need.sandboxes, need.memory_bytes, need.cpus]


def _words(kind: Kind) -> list[str]:
    return [kind.runtime, kind.template, kind.network, kind.kernel_type, kind.env_source, kind.environment]


def _is_word(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_WORD
