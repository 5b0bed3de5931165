"""Which notebooks this node has: asked for each one that is opened, answered from memory once it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from cellyard_controller.cluster import owners
from cellyard_controller.cluster.leases import Node
from cellyard_controller.cluster.membership import Membership
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Found, Given, Hold
from cellyard_controller.errors import Moved, NotebookNotFound, NotOwner
from cellyard_controller.ids import NotebookKey, NotebookRef

T = TypeVar("T")

_TRIES = 20
_BUSY_S = 0.02
"""Before another look at a notebook that somebody else is giving to a node: that takes a commit."""

log = structlog.get_logger()


class Transactions(Protocol):
    """The part of the store that this needs. Its writes begin with the membership's guard."""

    async def write(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """Commits what `work` does, and only then returns its result."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on a reading connection."""


class Placement(Protocol):
    """Decides which node gets a notebook."""

    def __call__(self, ref: NotebookRef, nodes: Sequence[Node], last: str | None) -> str | None:
        """One of these nodes, all of which take notebooks; None where none of them can. `last` had it last."""


class Ownerships:
    """See `notebooks.ownership.Ownership`.

    What this node has opened is known without asking the database, as long as its lease is in force: until then nobody
    else takes it.
    """

    def __init__(
        self,
        membership: Membership,
        store: Transactions,
        place: Placement,
        new: Callable[[NotebookRef], Awaitable[Callable[[Connection], object]]],
    ) -> None:
        """`new`: what adds a notebook that does not exist yet, in the transaction that gives it to a node; raises
        Refused where the tenant may not have it."""
        self._membership, self._store, self._place, self._new = membership, store, place, new
        self._open: set[NotebookRef] = set()
        """What `own` has said is here, and nobody has given up."""
        self._asking: WeakValueDictionary[NotebookRef, asyncio.Lock] = WeakValueDictionary()

    async def own(self, ref: NotebookRef, *, create: bool) -> None:
        """Returns once the notebook is this node's. A notebook that nobody has is given to the node that it is placed
        on, before the caller is sent there: so that node does not send it on.

        Raises NotOwner, NotebookNotFound where there is none and not `create`, Moved where it cannot be said at the
        moment, StoreFailed.
        """
        self._check(ref)
        if ref in self._open:
            return
        async with self._asking.setdefault(ref, asyncio.Lock()):
            await self._ask(ref, create)
        self._check(ref)

    async def give_up(self, ref: NotebookRef) -> None:
        """Anybody may have it next. Also for one that was deleted. Raises StoreFailed: then it stays this node's.

        Whoever calls it sees to it that nobody opens the notebook here meanwhile.
        """
        async with self._asking.setdefault(ref, asyncio.Lock()):
            if ref not in self._open:
                return
            self._open.discard(ref)
            await self._store.write(partial(owners.give_up, ref=ref, name=self._name, fence=self._fence))

    async def hand_over(self, ref: NotebookRef, key: NotebookKey, to: str) -> bool:
        """Another node is to go on with it, and does so by itself; whether it was given to that. Raises StoreFailed:
        then nobody can say, before `own` does.

        Whoever calls it sees to it that nobody opens the notebook here meanwhile.
        """
        async with self._asking.setdefault(ref, asyncio.Lock()):
            self._open.discard(ref)
            give = partial(owners.hand_over, key=key, name=self._name, fence=self._fence, to=to)
            return await self._store.write(give)

    async def drain(self) -> int:
        """This node takes no notebook any more; those that were given to it and are not open, and in which nothing is
        going on, are anybody's. Returns how many those were. Those that are open follow as they are given up.

        Raises StoreFailed.
        """
        await self._membership.drain()
        keep = frozenset(self._open)  # what is being asked for now sees that the node drains before it is open
        give_up = partial(owners.give_up_idle, name=self._name, fence=self._fence, keep=keep)
        return await self._store.write(give_up)

    @property
    def open(self) -> Collection[NotebookRef]:
        """The notebooks that are known to be here."""
        return self._open

    # Inside

    @property
    def _name(self) -> str:
        return self._membership.name

    @property
    def _fence(self) -> int:
        return self._membership.fence

    def _check(self, ref: NotebookRef) -> None:
        if not self._membership.in_force:
            why = self._membership.lost_because
            raise self._moved(ref, f"node {self._name!r} has nothing any more: {why}")

    async def _ask(self, ref: NotebookRef, create: bool) -> None:
        without: set[str] = set()
        for _ in range(_TRIES):
            found = await self._store.read(partial(owners.find, ref=ref))
            if found is None and not create:
                raise NotebookNotFound(f"notebook {ref.notebook_id!r} not found", notebook_id=ref.notebook_id)
            hold = found.hold(self._name, self._fence) if found else Hold.NOBODY
            if found is not None and hold is Hold.THERE:
                raise NotOwner.of(ref.notebook_id, node=found.owner or "", endpoint=found.endpoint)
            if found is not None and hold is Hold.IN_DOUBT:
                raise self._in_doubt(ref, found)
            if hold is Hold.HERE:
                if not self._membership.draining or not await self._pass_on(ref):
                    self._open.add(ref)
                    return
                continue
            to = self._choose(ref, found.owner if found else None, without)
            given, node = await self._give(ref, to, found is None)
            if node is not None and node.name != self._name:
                raise NotOwner.of(ref.notebook_id, node=node.name, endpoint=node.endpoint)
            if given is Given.NOT_SERVING:
                without.add(to)
            elif given is not Given.DONE:
                await asyncio.sleep(_BUSY_S)
        raise self._moved(ref, f"nobody can say who has notebook {ref.notebook_id!r}: many want it at once")

    async def _give(self, ref: NotebookRef, to: str, is_new: bool) -> tuple[Given, Node | None]:
        add = await self._new(ref) if is_new else None
        try:
            return await self._store.write(partial(owners.give, ref=ref, to=to, add=add))
        except IntegrityError:
            return Given.TAKEN, None  # somebody else added it meanwhile

    async def _pass_on(self, ref: NotebookRef) -> bool:
        """Of a draining node: whether a notebook that was given to it, and is not open here, is anybody's now."""
        give_up = partial(owners.give_up_if_idle, name=self._name, fence=self._fence, ref=ref)
        return await self._store.write(give_up)

    def _choose(self, ref: NotebookRef, last: str | None, without: Collection[str]) -> str:
        fit = [node for node in self._membership.serving if node.name not in without]
        chosen = self._place(ref, fit, last)
        if chosen is None or all(node.name != chosen for node in fit):
            raise self._moved(ref, f"no node takes notebook {ref.notebook_id!r} at the moment")
        return chosen

    def _in_doubt(self, ref: NotebookRef, found: Found) -> Moved:
        if found.state is NodeState.AWAY:
            return self._moved(ref, f"notebook {ref.notebook_id!r} is on node {found.owner!r}, which is restarting")
        return self._moved(ref, f"node {found.owner!r}, which had notebook {ref.notebook_id!r}, has lost its lease")

    def _moved(self, ref: NotebookRef, why: str) -> Moved:
        again = self._membership.terms.renew_every_s / 2
        return Moved(f"{why}: ask again", retry_after_s=again, notebook_id=ref.notebook_id)
