"""This controller among those that share its store: its lease, and what it says to the others and hears of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy import Connection

from cellyard_controller.clock import steady
from cellyard_controller.cluster import drains, handed_over, leases, owners
from cellyard_controller.cluster.leases import Identity, Node
from cellyard_controller.cluster.membership import Membership
from cellyard_controller.cluster.nodes import NodeState, NodeView
from cellyard_controller.cluster.owners import Inherited
from cellyard_controller.cluster.ownerships import Ownerships
from cellyard_controller.cluster.placement import Wish
from cellyard_controller.cluster.reports import NodeReport, describe, read
from cellyard_controller.cluster.sharing import Sharing, Usual
from cellyard_controller.cluster.standing import Standing, Terms
from cellyard_controller.cluster.takeover import Takeover
from cellyard_controller.errors import Refused
from cellyard_controller.ids import NotebookKey, NotebookRef, TenantName
from cellyard_controller.sandboxes.claims import ClaimView
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.plans import Bounds, Need, Outline
from cellyard_controller.store import Store, StoreFailed, places

_PASSED_ON_AT_ONCE = 16
"""Notebooks, between two looks at the other nodes."""
_CLOSE_BEFORE_END = 0.05
"""Part of a lease: agents end their sandboxes so much before its end, for what travels and what takes its time."""

log = structlog.get_logger()


class Sandboxes(Protocol):
    """What a cluster needs of the supervisor."""

    def outline(self) -> Outline:
        """How things are here."""

    def extend_tenure(self, until: float, begin_until: float) -> None:
        """Sandboxes go on by themselves until the one moment, and nothing is begun in them after the other
        (monotonic time)."""

    def queue(self) -> list[ClaimView]:
        """The claims that have no sandbox yet, in the order of asking."""

    def schedule(self) -> None:
        """What other nodes have may have changed."""


class Notebooks(Protocol):
    """What a cluster needs of the rooms. All may raise Refused and StoreFailed, and be called again then."""

    async def take_over(self, keys: Collection[NotebookKey], lost: tuple[EndReason, str]) -> None:
        """Opens notebooks that are this node's now: what ran in them ends for this reason, what waits runs here."""

    async def make_way(self) -> None:
        """Lets go of what is not used here; called again and again while the node drains."""

    async def pass_on(self, moves: Mapping[NotebookRef, str]) -> None:
        """Gives notebooks that wait for room here to these nodes."""


class Cluster:
    """One node. `join`, then `run` for as long as its controller does, then `leave`."""

    def __init__(self, membership: Membership, place: places.Postgres, store: Store, usual: Usual, unit: Need) -> None:
        self._membership, self._place, self._store = membership, place, store
        self._sharing = Sharing(membership.name, membership.terms, usual, lambda: unit)
        self._quota: Callable[[TenantName], Bounds] = lambda tenant: Bounds()
        self._sandboxes: Sandboxes | None = None
        self.lost = asyncio.Event()
        """The lease is lost: what this node had may be others' soon."""
        membership.listen(self._stands)

    @classmethod
    def join(
        cls, place: places.Postgres, store: Store, me: Identity, lease_s: float, *, usual: Usual, unit: Need
    ) -> Cluster:
        """Takes the node's name, from which moment the store is written as this node. Blocks.

        Raises NameTaken, StoreFailed.
        """
        terms = Terms(lease_s)
        engine = places.engine(place, purpose="lease", timeout_s=terms.attempt_s)
        membership = Membership.take(engine, me, terms)
        store.guard, store.node, store.controller_id = membership.guard, me.name, me.controller_id
        return cls(membership, place, store, usual, unit)

    @property
    def name(self) -> str:
        """The node's."""
        return self._membership.name

    @property
    def why_lost(self) -> str:
        """Why the lease is lost; empty while it is not."""
        return self._membership.lost_because

    def ownerships(self, new: Callable[[NotebookRef], Awaitable[Callable[[Connection], object]]]) -> Ownerships:
        """What says which notebooks are this node's. `new`: see there."""
        self._ownerships = Ownerships(self._membership, self._store, self._choose, new)
        return self._ownerships

    async def had(self) -> frozenset[NotebookKey]:
        """The notebooks that this node has: after a restart, what its predecessor had, and what is unfinished and
        nobody's. Raises StoreFailed."""
        fence = self._membership.fence
        await self._store.write(partial(owners.adopt, name=self.name, fence=fence))
        mine = partial(owners.had_by, name=self.name, fence=fence)
        return frozenset(await self._store.read(mine))

    async def keep(self) -> None:
        """Renews the lease until it is lost, or this is cancelled."""
        await self._membership.keep()

    def attend(self, sandboxes: Sandboxes, quota: Callable[[TenantName], Bounds]) -> None:
        """From now on these go on for as long as the lease. `quota`: a tenant's, over all nodes."""
        self._sandboxes, self._quota = sandboxes, quota
        self._extend()

    async def begin(self) -> None:
        """Says for the first time what is here, and hears of the others. `keep` must be running. Raises StoreFailed."""
        said = self._say()
        while all(node.report != said for node in self._membership.nodes if node.name == self.name):
            await self._membership.again()
        await self._hear()

    async def run(self, notebooks: Notebooks) -> None:
        """Says and hears with each renewal, and takes over from nodes that are lost; until the lease is lost."""

        async def recover(lost: Inherited) -> None:
            await notebooks.take_over(lost.notebooks, (EndReason.NODE_LOST, f"the node {lost.node!r} was lost"))

        engine = places.engine(self._place, purpose="takeover")
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(Takeover(self._membership, engine, recover).watch())
            while self._membership.in_force:
                await self._membership.news()
                self._extend()
                try:
                    handed = await self._hear()
                    await self._take_up(handed, notebooks)
                    if self._membership.draining:
                        await notebooks.make_way()
                    await notebooks.pass_on(self._room_elsewhere())
                except (Refused, StoreFailed) as failed:
                    log.warning("what is wanted of this node cannot be done yet", why=str(failed))
                except Exception:  # a defect here must not end the node, which goes on with what it knew
                    log.exception("what other nodes say was not taken in")
                self._say()
            watch.cancel()

    def leave(self, away_s: float) -> None:
        """Lets go of the name, once everything is written. Blocks. `away_s`: for how long a successor is waited for."""
        self._membership.leave(away_s)

    def left_behind(self, away_s: float) -> None:
        """This controller goes, and its sandboxes wait for its successor."""
        if self._sandboxes is not None and self._membership.in_force:
            now = time.monotonic()
            self._sandboxes.extend_tenure(now + away_s * (1 - _CLOSE_BEFORE_END), now)

    # For the scheduler: sandboxes.others.Others

    def bounds(self, tenant: TenantName, quota: Bounds) -> Bounds:
        """What a tenant may have here, of a quota that holds over all nodes."""
        return self._sharing.bounds(tenant, quota, self._membership.now)

    def elsewhere(self, tenant: TenantName) -> Need:
        """What a tenant has on other nodes."""
        return self._sharing.elsewhere(tenant)

    @property
    def together(self) -> Bounds:
        """What all nodes have."""
        return self._sharing.together

    # For the operator: metrics, and api.nodes.Fleet

    @property
    def lease_left_s(self) -> float:
        """Until the lease ends unless it is renewed; 0 once it is lost."""
        return self._membership.left_s

    def states(self) -> Counter[str]:
        """How many nodes were how when they were read last: by their state, or "failing" where nothing comes up on one
        that serves."""
        failing = self._sharing.failing
        return Counter("failing" if failing(node.name) else node.state.value for node in self._membership.nodes)

    async def nodes(self) -> list[NodeView]:
        """All nodes, by name. Raises StoreFailed."""

        def work(connection: Connection) -> tuple[Sequence[Node], Mapping[tuple[str, int], int]]:
            return leases.everybody(connection), owners.counted(connection)

        found, counted = await self._store.read(work)
        return [self._view(node, counted) for node in found]

    async def drain(self, name: str, *, wanted: bool) -> None:
        """Begins a node's drain, or takes it back; it is seen with the node's next renewal.

        Raises InvalidRequest, StoreFailed.
        """
        await self._store.write(partial(drains.want, name=name, wanted=wanted))
        if name == self.name:
            await self._hear()

    # Inside

    def _stands(self, standing: Standing) -> None:
        if standing is Standing.LOST:
            self.lost.set()

    def _extend(self) -> None:
        membership = self._membership
        if self._sandboxes is not None:
            end, lease = time.monotonic() + membership.left_s, membership.terms.lease_s
            self._sandboxes.extend_tenure(end - lease * _CLOSE_BEFORE_END, end - lease / 2)

    def _say(self) -> str:
        assert self._sandboxes is not None
        state = NodeState.DRAINING if self._membership.draining else NodeState.SERVING
        report = describe(self._sandboxes.outline(), (), state).text()
        self._membership.say(report)
        return report

    async def _hear(self) -> list[NotebookKey]:
        """Takes in what others say; returns the notebooks that they have given to this node to go on with."""
        membership = self._membership
        self._sharing.heard(membership.nodes, membership.now - membership.nodes_age_s)
        assert self._sandboxes is not None
        self._sandboxes.schedule()

        def asked(connection: Connection) -> tuple[bool, list[NotebookKey]]:
            return drains.wanted(connection, self.name), handed_over.find(connection, self.name)

        wanted, handed = await self._store.read(asked)
        if wanted and not membership.draining:
            given_up = await self._ownerships.drain()
            log.info("this node drains", given_up=given_up)
        elif membership.draining and not wanted:
            await membership.serve()
            log.info("this node drains no more")
        return handed

    async def _take_up(self, handed: list[NotebookKey], notebooks: Notebooks) -> None:
        if handed:
            await notebooks.take_over(handed, (EndReason.NODE_LOST, "the node that had it has given it away"))
            await self._store.write(partial(handed_over.settle, name=self.name, keys=handed))

    def _room_elsewhere(self) -> dict[NotebookRef, str]:
        """Where those would start at once who wait here for room, and have for as long as others take to report."""
        assert self._sandboxes is not None
        asked_before = steady() - self._membership.terms.renew_every_s
        others = {node.name for node in self._membership.serving} - {self.name}
        avoid, found = self._all_but(others), dict[NotebookRef, str]()
        for claim in self._sandboxes.queue() if others else ():
            if claim.waited is None or not claim.waited.for_room or claim.asked_at > asked_before:
                continue
            wish = Wish(claim.ref, claim.kind, claim.need, avoid=avoid)
            to = self._sharing.room(wish, self._quota(claim.ref.tenant), self._membership.now)
            if to is not None:
                found[claim.ref] = to
            if len(found) == _PASSED_ON_AT_ONCE:
                break
        return found

    def _choose(self, ref: NotebookRef, nodes: Sequence[Node], last: str | None) -> str | None:
        fit, now = {node.name for node in nodes}, self._membership.now
        chosen = self._sharing.place(ref, last or "", self._all_but(fit), self._quota(ref.tenant), now)
        return chosen if chosen in fit else None

    def _all_but(self, names: Collection[str]) -> frozenset[str]:
        return frozenset(node.name for node in self._membership.nodes if node.name not in names)

    def _view(self, node: Node, counted: Mapping[tuple[str, int], int]) -> NodeView:
        report: NodeReport
        report, _ = read(node.report, node.state)
        lost = node.state is NodeState.LOST
        return NodeView(
            name=node.name,
            endpoint=node.endpoint,
            state=node.state,
            lease_left_s=0.0 if lost else max(0.0, node.left_s),
            fence=node.fence,
            notebooks=0 if lost else counted.get((node.name, node.fence), 0),
            sandboxes=0 if lost else report.used.sandboxes,
            sandboxes_max=report.capacity.sandboxes or 0,
            warm=0 if lost else sum(report.warm.values()),
            waiting=0 if lost else report.waiting,
            this_one=node.name == self.name,
            failing=report.failing and not lost,
        )
