"""A node is lost: one of the others takes over, once, and sees to what was going on there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select, update
from tests.integration.cluster.conftest import NodeHere, prepare
from tests.integration.cluster.rows import add_execution

from cellyard_controller.cluster import leases, owners
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Hold
from cellyard_controller.errors import Moved, NotOwner
from cellyard_controller.ids import NotebookId, NotebookRef, TenantName
from cellyard_controller.store.errors import Fenced, StoreFailed
from cellyard_controller.store.schema import nodes, notebooks

Make = Callable[..., NodeHere]


@pytest.fixture
def shared(database: str) -> str:
    """A database for each test: in one that others used there are nodes that are long gone."""
    prepare(database)
    return database


def new() -> NotebookRef:
    return NotebookRef(TenantName("alice"), NotebookId(uuid.uuid4().hex[:12]))


def accept(engine: Engine, ref: NotebookRef) -> None:
    """An execution that runs."""
    key = select(notebooks.c.key).where(notebooks.c.notebook_id == ref.notebook_id).scalar_subquery()
    with engine.begin() as connection:
        add_execution(connection, key, "started")


async def lose(lost: NodeHere, busy: NotebookRef, idle: NotebookRef, engine: Engine) -> None:
    """It takes two notebooks, is in the middle of an execution in one, and nothing is heard of it for a long time."""
    await lost.ownerships.own(busy, create=True)
    await lost.ownerships.own(idle, create=True)
    accept(engine, busy)
    with engine.begin() as connection:  # to it, and to the database
        connection.execute(update(nodes).where(nodes.c.name == lost.name).values(expires_at=nodes.c.expires_at - 1200))
    lost.clock.ahead = 1200.0


async def recovered(*nodes: NodeHere) -> tuple[NodeHere, owners.Inherited]:
    """The first of the nodes that recovers something."""
    waiting = {asyncio.create_task(node.recovered.get()): node for node in nodes}
    done, rest = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    [first] = done
    return waiting[first], first.result()


async def test_one_of_the_others_takes_over_and_sees_to_what_was_unfinished(engine: Engine, node: Make) -> None:
    busy, idle = new(), new()
    first, second = node("first"), node("second")
    async with first.running(watch=True), second.running(watch=True):
        lost = node("lost")
        async with lost.abandoned():
            await lose(lost, busy, idle, engine)
            first.failures.append(Moved("not yet"))
            second.failures.append(StoreFailed("not yet"))
            winner, inherited = await recovered(first, second)
            assert inherited.node == lost.name
            assert list(inherited.notebooks.values()) == [busy]
            other = second if winner is first else first
            with pytest.raises(NotOwner) as told:
                await other.ownerships.own(busy, create=False)
            assert told.value.details["node"] == winner.name
            await winner.ownerships.own(busy, create=False)
            await other.ownerships.own(idle, create=False)  # whoever comes first
            with pytest.raises(Fenced):
                await lost.store.write(lambda connection: None)
            with pytest.raises(Moved):
                await lost.ownerships.own(busy, create=False)
            assert first.recovered.empty()
            assert second.recovered.empty()
    with engine.begin() as connection:
        row = leases.one(connection, lost.name)
    assert row is not None
    assert (row.state, row.fence) == (NodeState.LOST, lost.membership.fence + 1)


async def test_a_recovery_that_fails_for_good_does_not_end_the_watch(engine: Engine, node: Make) -> None:
    first = node("first")
    first.failures.append(RuntimeError("a defect"))
    async with first.running(watch=True):
        for number in range(2):
            lost = node("lost")
            async with lost.abandoned():
                await lose(lost, new(), new(), engine)
                if number:
                    _, inherited = await recovered(first)
                    assert inherited.node == lost.name
                else:
                    while first.failures:
                        await asyncio.wait_for(first.membership.news(), 60)


async def test_a_draining_node_leaves_it_to_one_that_stays(engine: Engine, node: Make) -> None:
    going, staying = node("going"), node("staying")
    async with going.running(watch=True), staying.running(watch=True):
        await going.ownerships.drain()
        await going.knows(staying.name)
        lost = node("lost")
        async with lost.abandoned():
            await lose(lost, new(), new(), engine)
            winner, _ = await recovered(going, staying)
            assert winner is staying


async def test_a_node_that_restarts_within_its_lease_keeps_what_it_had(engine: Engine, node: Make) -> None:
    busy = new()
    watching = node("watching")
    async with watching.running(watch=True):
        before = node("restarting")
        async with before.running():
            await before.ownerships.own(busy, create=True)
            accept(engine, busy)
        after = before.again()
        async with after.running():
            assert after.membership.fence == before.membership.fence + 1
            with engine.begin() as connection:
                had = owners.had_by(connection, after.name, after.membership.fence)
                found = owners.find(connection, busy)
            assert list(had.values()) == [busy]
            assert found is not None
            assert found.hold(after.name, after.membership.fence) is Hold.HERE
            await after.ownerships.own(busy, create=False)
            for _ in range(3):
                await asyncio.wait_for(watching.membership.news(), 60)
            assert watching.recovered.empty()
