"""Who has a notebook: two nodes on one database, without rooms."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, delete, select, update
from tests.integration.cluster.conftest import NodeHere

from cellyard_controller.cluster import handed_over, leases, owners
from cellyard_controller.cluster.leases import Identity, Taken
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Hold
from cellyard_controller.errors import Moved, NotebookNotFound, NotOwner, QuotaExceeded
from cellyard_controller.ids import NotebookId, NotebookKey, NotebookRef, TenantName
from cellyard_controller.store.schema import nodes, notebooks

Make = Callable[..., NodeHere]


def new() -> NotebookRef:
    return NotebookRef(TenantName("alice"), NotebookId(uuid.uuid4().hex[:12]))


def hold(engine: Engine, ref: NotebookRef, node: NodeHere) -> Hold:
    with engine.begin() as connection:
        found = owners.find(connection, ref)
    assert found is not None
    return found.hold(node.name, node.membership.fence)


async def test_a_notebook_that_is_open_here_is_known_without_the_database(engine: Engine, node: Make) -> None:
    async with node().running() as here:
        ref = new()
        with pytest.raises(NotebookNotFound):
            await here.ownerships.own(ref, create=False)
        await here.ownerships.own(ref, create=True)
        assert hold(engine, ref, here) is Hold.HERE
        reads = here.store.reads
        await here.ownerships.own(ref, create=False)
        assert here.store.reads == reads
        await here.ownerships.give_up(ref)
        await here.ownerships.give_up(ref)  # which says nothing new
        assert hold(engine, ref, here) is Hold.NOBODY
        await here.ownerships.own(ref, create=False)
        assert here.offered[-1] == ({here.name}, here.name)


async def test_whoever_else_is_asked_says_who_has_it(node: Make) -> None:
    first, second = node("first"), node("second")
    async with first.running(), second.running():
        ref = new()
        await first.ownerships.own(ref, create=True)
        with pytest.raises(NotOwner) as told:
            await second.ownerships.own(ref, create=True)
        assert told.value.details == {
            "notebook_id": ref.notebook_id,
            "node": first.name,
            "endpoint": f"{first.name}:8500",
        }
        await first.ownerships.give_up(ref)
        await second.ownerships.own(ref, create=False)
        assert second.offered[-1][1] == first.name  # it may have files of it
        with pytest.raises(NotOwner):
            await first.ownerships.own(ref, create=False)


async def test_a_notebook_that_is_placed_elsewhere_is_had_there_before_anybody_is_sent(node: Make) -> None:
    first, second = node("first"), node("second")
    async with first.running(), second.running():
        await first.knows(second.name)
        first.to, second.to = second.name, first.name  # each would send everybody to the other
        ref = new()
        with pytest.raises(NotOwner) as told:
            await first.ownerships.own(ref, create=True)
        assert told.value.details["node"] == second.name
        await second.ownerships.own(ref, create=False)  # and does not send them back
        with pytest.raises(NotOwner):
            await first.ownerships.own(ref, create=False)


def handed_to(engine: Engine, node: NodeHere) -> list[NotebookKey]:
    with engine.begin() as connection:
        return handed_over.find(connection, node.name)


def key_of(engine: Engine, ref: NotebookRef) -> NotebookKey:
    with engine.begin() as connection:
        return NotebookKey(
            connection.execute(select(notebooks.c.key).where(notebooks.c.notebook_id == ref.notebook_id)).scalar_one()
        )


async def test_a_notebook_is_handed_over_in_one_step_with_the_word_of_it(engine: Engine, node: Make) -> None:
    first, second, third = node("first"), node("second"), node("second_")  # a name that is the beginning of another
    async with first.running(), second.running(), third.running():
        ref = new()
        await first.ownerships.own(ref, create=True)
        key = key_of(engine, ref)
        assert await first.ownerships.hand_over(ref, key, second.name)
        assert hold(engine, ref, second) is Hold.HERE
        assert (handed_to(engine, first), handed_to(engine, second), handed_to(engine, third)) == ([], [key], [])
        with pytest.raises(NotOwner):
            await first.ownerships.own(ref, create=False)
        assert not await first.ownerships.hand_over(ref, key, third.name), "it is not its own any more"
        await second.ownerships.own(ref, create=False)
        assert await second.ownerships.hand_over(ref, key, first.name)
        assert await first.ownerships.own(ref, create=False) is None
        assert await first.ownerships.hand_over(ref, key, second.name), "again"
        with engine.begin() as connection:
            handed_over.settle(connection, second.name, [key])
        assert (handed_to(engine, first), handed_to(engine, second)) == ([key], [])


async def test_nothing_is_handed_over_to_who_does_not_serve(engine: Engine, node: Make) -> None:
    first, second = node("first"), node("second")
    async with first.running():
        ref = new()
        await first.ownerships.own(ref, create=True)
        key = key_of(engine, ref)
        assert not await first.ownerships.hand_over(ref, key, "nobody")
        async with second.running():
            await second.ownerships.drain()
            assert not await first.ownerships.hand_over(ref, key, second.name)
        assert not await first.ownerships.hand_over(ref, key, second.name), "it has left"
        await first.ownerships.own(ref, create=False)
        assert hold(engine, ref, first) is Hold.HERE


async def test_a_node_that_is_told_of_a_notebook_and_no_longer_serves_is_passed_over(
    engine: Engine, node: Make
) -> None:
    first, second = node("first"), node("second")
    async with first.running():
        async with second.running():
            await first.knows(second.name)
        first.to = second.name  # as far as the first has read, it is there
        with engine.begin() as connection:
            row = leases.one(connection, second.name)
        assert row is not None
        assert row.state is NodeState.AWAY
        ref = new()
        await first.ownerships.own(ref, create=True)
        assert hold(engine, ref, first) is Hold.HERE


async def test_what_a_tenant_may_not_have_is_not_made(engine: Engine, node: Make) -> None:
    async with node().running() as here:
        here.refusal = QuotaExceeded("no more notebooks")
        ref = new()
        with pytest.raises(QuotaExceeded):
            await here.ownerships.own(ref, create=True)
        with engine.begin() as connection:
            assert owners.find(connection, ref) is None


async def test_a_deleted_notebook_is_made_again_once_it_was_given_up(engine: Engine, node: Make) -> None:
    async with node().running() as here:
        ref = new()
        await here.ownerships.own(ref, create=True)
        with engine.begin() as connection:
            connection.execute(delete(notebooks).where(notebooks.c.notebook_id == ref.notebook_id))
        await here.ownerships.give_up(ref)
        await here.ownerships.own(ref, create=True)
        assert hold(engine, ref, here) is Hold.HERE


async def test_of_many_askers_at_many_nodes_all_are_told_the_same(node: Make) -> None:
    made = [node("a"), node("b"), node("c")]
    async with made[0].running(), made[1].running(), made[2].running():
        refs = [new() for _ in range(12)]

        async def ask(ref: NotebookRef, here: NodeHere) -> str:
            for _ in range(50):
                try:
                    await here.ownerships.own(ref, create=True)
                except NotOwner as told:
                    return told.details["node"]
                except Moved:  # many want it at once
                    continue
                return here.name
            raise AssertionError("nobody has it")

        said = await asyncio.gather(*(ask(ref, here) for ref in refs for here in made for _ in range(2)))
        for number, ref in enumerate(refs):
            assert len(set(said[number * 6 : number * 6 + 6])) == 1, ref


async def test_a_node_without_its_lease_has_nothing(node: Make) -> None:
    here = node()
    ref = new()
    async with here.running():
        await here.ownerships.own(ref, create=True)
    with pytest.raises(Moved, match="it was left: ask again") as told:
        await here.ownerships.own(ref, create=False)
    assert told.value.retryable
    assert told.value.retry_after_s is not None


async def test_a_notebook_whose_node_is_silent_or_restarting_is_nobodys_to_give(engine: Engine, node: Make) -> None:
    other = f"other-{uuid.uuid4().hex[:8]}"
    async with node().running() as here:
        with engine.begin() as connection:
            taken = leases.take(connection, Identity(other, "c", "other:1"), 600.0)
        assert isinstance(taken, Taken)
        await here.knows(other)
        here.to, ref = other, new()
        with pytest.raises(NotOwner):
            await here.ownerships.own(ref, create=True)
        with engine.begin() as connection:
            silent = update(nodes).where(nodes.c.name == other)
            connection.execute(silent.values(expires_at=nodes.c.expires_at - 1200))
        with pytest.raises(Moved, match="has lost its lease: ask again"):
            await here.ownerships.own(ref, create=False)
        with engine.begin() as connection:
            leases.leave(connection, other, taken.fence, 600.0)
        with pytest.raises(Moved, match="which is restarting: ask again"):
            await here.ownerships.own(ref, create=False)


async def test_a_drained_node_takes_nothing_and_keeps_what_is_open(engine: Engine, node: Make) -> None:
    first, second = node("first"), node("second")
    async with first.running(), second.running():
        await second.knows(first.name)
        open_there, given = new(), new()
        await first.ownerships.own(open_there, create=True)
        second.to = first.name
        with pytest.raises(NotOwner):
            await second.ownerships.own(given, create=True)
        assert await first.ownerships.drain() == 1
        assert hold(engine, given, first) is Hold.NOBODY
        await first.ownerships.own(open_there, create=False)
        await first.knows(second.name)
        first.to = second.name
        with pytest.raises(NotOwner):
            await first.ownerships.own(given, create=False)
        with pytest.raises(NotOwner):
            await first.ownerships.own(new(), create=True)
        await second.ownerships.own(given, create=False)


async def test_a_drained_node_that_is_the_only_one_says_so(engine: Engine, node: Make) -> None:
    async with node().running() as here:
        await here.ownerships.drain()
        with pytest.raises(Moved, match="no node takes notebook"):
            await here.ownerships.own(new(), create=True)
        await here.membership.serve()
        await here.ownerships.own(new(), create=True)
