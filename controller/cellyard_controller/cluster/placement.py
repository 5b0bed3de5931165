"""Where a notebook goes that no node has: pure, from the nodes' last reports.

The rules, the first that finds a node decides:
1. The node that had the notebook last, if there is room: its blobs and packages are in that machine's caches.
2. A node with a warm sandbox of the right kind.
3. A node that has prepared the environment.
4. A node with room.
5. No node has room: one of those that could ever hold it, where the fewest claims wait.

Among several the choice is between two that are drawn, for the one with more room: whoever decides from reports that
are some seconds old, as all others do, would send everybody to the same best node. What is drawn depends on the wish
and on what was tried alone, so that a decision can be repeated. Where the tenant's quota leaves room on some nodes
only, those come first. A node that drains, is away or was not heard of lately is never chosen, nor one where claims
wait for room while others have some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from cellyard_controller.cluster.fleet import Bag, Fleet, Node
from cellyard_controller.ids import NotebookRef
from cellyard_controller.sandboxes.plans import Kind, Need

_TRIES = 16
"""Nodes looked at in a set from which two are wanted that will do."""
_MOST_TRIES = 256
"""Likewise where not all that are in it need have the room."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A notebook that wants a node."""

    ref: NotebookRef
    kind: Kind
    need: Need
    last_node: str = ""
    """Which had it last."""
    avoid: frozenset[str] = frozenset()
    """Nodes that were tried for it in vain."""
    reach: int | None = None
    """How many nodes can start one more for its tenant at once (`shares.reach`); None: all."""


class Why(StrEnum):
    """What decided."""

    LAST = "last"
    WARM = "warm"
    ENVIRONMENT = "environment"
    ROOM = "room"
    LINE = "line"
    """No node has room: it waits there."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A node for a notebook."""

    node: str
    why: Why


def place(wish: Wish, fleet: Fleet, now: float) -> Placement | None:
    """A node for a notebook, or None where none could ever hold it. `now` is of the clock of `Fleet.heard`."""
    fleet.expire(now)
    return _Placing(wish, fleet).place()


class _Placing:
    """One decision in the making."""

    def __init__(self, wish: Wish, fleet: Fleet) -> None:
        self._wish, self._fleet = wish, fleet
        self._draws = _Draws(wish)

    def place(self) -> Placement | None:
        wish, fleet = self._wish, self._fleet
        last = fleet.find(wish.last_node)
        if last is not None and self._will_do(last):
            return Placement(last.name, Why.LAST)
        if wish.reach is not None and wish.reach < len(fleet.serving):
            found = self._better(self._some(_First(fleet, wish), self._will_do, _TRIES))
            if found is not None:
                return Placement(found.name, Why.WARM if found.warm(wish.kind) else Why.ROOM)
        for bag, why in (
            (fleet.by_kind.get(wish.kind), Why.WARM),
            (fleet.by_environment.get(wish.kind.environment), Why.ENVIRONMENT),
        ):
            found = self._better(self._some(bag, self._will_do, _TRIES)) if bag is not None else None
            if found is not None:
                return Placement(found.name, why)
        return self._by_room() or self._by_line()

    def _by_room(self) -> Placement | None:
        certain, perhaps = self._fleet.with_room_for(self._wish.need)
        found = self._better(self._some(_Joined(certain), self._will_do, _TRIES))
        found = found or self._better(self._some(perhaps, self._will_do, _MOST_TRIES))
        return Placement(found.name, Why.ROOM) if found else None

    def _by_line(self) -> Placement | None:
        serving = self._fleet.serving
        names = _First(self._fleet, self._wish, len(serving))
        able = list(self._some(names, self._could_ever, _MOST_TRIES))
        if not able:
            return None
        return Placement(min(able, key=self._line).name, Why.LINE)

    def _will_do(self, node: Node) -> bool:
        """Whether it starts there at once. A warm sandbox has its room already, unless others wait for that."""
        if node.name in self._wish.avoid or node.report.waiting:
            return False
        return node.warm(self._wish.kind) > 0 or node.fits(self._wish.need)

    def _line(self, node: Node) -> tuple[bool, bool, int]:
        """How long the line is. Those that were tried in vain come last, so that who tries again waits elsewhere."""
        waiting = node.report.waiting + node.given.sandboxes
        return node.name in self._wish.avoid, node.report.failing, waiting

    def _could_ever(self, node: Node) -> bool:
        return not node.report.capacity.exceeded(self._wish.need)

    def _some(self, names: Bag | _Joined | _First, will_do: Callable[[Node], bool], tries: int) -> Iterator[Node]:
        """Two different nodes of these that will do, or one, or none."""
        count, found = len(names), 0
        for index in range(count) if count <= tries else self._draws.below(count, tries):
            node = self._fleet.find(names[index])
            if node is not None and will_do(node):
                yield node
                found += 1
                if found == 2 and count > tries:
                    return

    def _better(self, nodes: Iterator[Node]) -> Node | None:
        kind = self._wish.kind
        some = list(nodes)
        if len(some) > 1:
            (one,), (other,) = self._draws.below(len(some), 1), self._draws.below(len(some) - 1, 1)
            some = [some[one], some[other + (other >= one)]]
        return max(some, key=lambda node: (node.warm(kind) > 0, node.room), default=None)


class _First:
    """The nodes that come first for a tenant."""

    def __init__(self, fleet: Fleet, wish: Wish, count: int | None = None) -> None:
        self._ring, self._tenant = fleet.serving, wish.ref.tenant
        self._count = wish.reach or 0 if count is None else count

    def __len__(self) -> int:
        return min(self._count, len(self._ring))

    def __getitem__(self, index: int) -> str:
        return self._ring.after(self._tenant, index)


class _Joined:
    """Several bags as one."""

    def __init__(self, bags: Sequence[Bag]) -> None:
        self._bags = bags

    def __len__(self) -> int:
        return sum(map(len, self._bags))

    def __getitem__(self, index: int) -> str:
        for bag in self._bags:
            if index < len(bag):
                return bag[index]
            index -= len(bag)
        raise IndexError(index)


class _Draws:
    """Numbers that look drawn, the same for the same wish."""

    def __init__(self, wish: Wish) -> None:
        named = repr((wish.ref.tenant, wish.ref.notebook_id, sorted(wish.avoid)))
        self._state = int.from_bytes(blake2b(named.encode(errors="surrogatepass"), digest_size=8).digest())

    def below(self, count: int, tries: int) -> Iterator[int]:
        """Numbers below `count`, different ones for the most part."""
        for _ in range(tries):
            # The 64-bit step of Steele, Lea and Flood's SplitMix.
            self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
            mixed = ((self._state ^ (self._state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
            yield ((mixed ^ (mixed >> 31)) * count) >> 64


_MASK = 2**64 - 1
