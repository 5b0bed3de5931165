"""What becomes of a node that is lost: one of the others ends its lease, and sees to what was going on there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cellyard_controller.cluster import owners, sightings
from cellyard_controller.cluster.leases import Node
from cellyard_controller.cluster.line import Line
from cellyard_controller.cluster.membership import Membership
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Inherited
from cellyard_controller.cluster.sightings import Sighting
from cellyard_controller.errors import Refused
from cellyard_controller.store.errors import Fenced, StoreFailed

Recover = Callable[[Inherited], Awaitable[None]]
"""Opens notebooks that this node has inherited, and ends what was going on in them. May be called again after it raised
Refused or StoreFailed."""

log = structlog.get_logger()


class Takeover:
    """Watches the other nodes, and takes over from those whose lease runs out. Every node has one; one of them wins."""

    def __init__(self, membership: Membership, engine: Engine, recover: Recover) -> None:
        """`engine`: see `Line`; not the writer's connection, which must not wait for what a lost node was writing."""
        self._membership, self._engine, self._recover = membership, engine, recover
        self._seen: dict[str, Sighting] = {}

    async def watch(self) -> None:
        """Looks whenever the nodes were read, and when a lease runs out; until the own one is lost or it ends."""
        async with asyncio.TaskGroup() as recoveries:
            while self._membership.in_force:
                for node in self._overdue():
                    inherited = await asyncio.to_thread(self._inherit, node)
                    if inherited is not None:
                        recoveries.create_task(self._see_to(inherited))
                await self._until_news()

    async def _until_news(self) -> None:
        """Until the nodes were read again. That is not waited for beyond the end of a lease that nobody has renewed."""
        mine = self._membership
        others = [node for node in mine.nodes if node.name != mine.name and node.state is not NodeState.LOST]
        left = [node.left_s - mine.nodes_age_s for node in others]
        try:
            async with asyncio.timeout(min((each for each in left if each > 0), default=None)):
                return await mine.news()
        except TimeoutError:
            pass
        try:
            await mine.again()
        except Fenced:
            pass  # the own lease is lost: nothing is left to look for

    def _overdue(self) -> list[Node]:
        mine, nodes = self._membership, self._membership.nodes
        now = mine.now - mine.nodes_age_s
        self._seen = sightings.look(self._seen, nodes, now)
        if mine.draining and any(_serves(node) for node in nodes if node.name != mine.name):
            return []  # somebody who stays does it
        return sightings.overdue(self._seen, nodes, now, mine.terms, mine.name)

    def _inherit(self, lost: Node) -> Inherited | None:
        line, mine = Line(self._engine), self._membership
        try:
            with line.transaction() as connection:
                # The lost node's row first: what is waited for there must not keep this node's own lease from ending.
                inherited = owners.inherit(connection, lost, mine.name, mine.fence)
                if inherited is not None:
                    mine.guard(connection)
        except (DBAPIError, StoreFailed, OSError) as failed:
            log.warning("a lost node could not be taken over", lost=lost.name, why=str(failed).strip())
            return None
        finally:
            line.close()
        if inherited is not None:
            away = lost.state is NodeState.AWAY
            level, what = (log.info, "a node did not come back") if away else (log.warning, "a node is lost")
            level(
                what,
                lost=lost.name,
                endpoint=lost.endpoint,
                notebooks=len(inherited.notebooks),
                sandboxes=inherited.sandboxes,
            )
        return inherited

    async def _see_to(self, inherited: Inherited) -> None:
        while self._membership.in_force:
            try:
                return await self._recover(inherited)
            except (Refused, StoreFailed) as failed:
                log.warning("what a lost node had is not recovered yet", lost=inherited.node, why=str(failed))
            except Exception:  # a defect there must not end the watch; who opens such a notebook recovers it, too
                log.exception("what a lost node had could not be recovered", lost=inherited.node)
                return None
            await asyncio.sleep(self._membership.terms.renew_every_s)
        return None


def _serves(node: Node) -> bool:
    return node.state is NodeState.SERVING and node.left_s > 0
