"""A lease as its node sees it, whatever PostgreSQL does meanwhile."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Engine, event, update
from tests.integration.cluster.conftest import Brisk, Clock, Often, engine_of, prepare
from tests.postgres_server import PostgresServer

from cellyard_controller.cluster import leases
from cellyard_controller.cluster.errors import NameTaken
from cellyard_controller.cluster.leases import Identity, Node
from cellyard_controller.cluster.membership import Membership
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.standing import Standing, Terms
from cellyard_controller.store.errors import Fenced, StoreFailed
from cellyard_controller.store.schema import nodes

SHORT = Terms(2.0)
"""For leases that are to be lost."""
LONG = Terms(60.0)
"""For leases that are to be kept, on however slow a machine."""


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """One that is paused and stopped."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def server(own_server: PostgresServer) -> Iterator[tuple[PostgresServer, str]]:
    """It, and the URL of a database with the store's tables."""
    url = own_server.create()
    prepare(url)
    yield own_server, url
    own_server.drop(url)


def me(controller: str = "c1", name: str = "") -> Identity:
    return Identity(name or f"n-{uuid.uuid4().hex[:8]}", controller, "here:8500")


def take(engine: Engine, identity: Identity, terms: Terms = LONG, **more: float) -> Membership:
    return Membership.take(engine, identity, terms, **more)


class Heard:
    """The standings that a membership told, in order."""

    def __init__(self, membership: Membership) -> None:
        self.all: list[Standing] = []
        self._news = asyncio.Event()
        membership.listen(self._hear)

    def _hear(self, standing: Standing) -> None:
        self.all.append(standing)
        self._news.set()

    async def until(self, standing: Standing) -> None:
        """Returns when the last one is this."""
        while not self.all or self.all[-1] is not standing:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)


@asynccontextmanager
async def kept(membership: Membership) -> AsyncIterator[Heard]:
    """Its lease is renewed meanwhile."""
    heard = Heard(membership)
    keeping = asyncio.create_task(membership.keep())
    try:
        yield heard
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        membership.leave()


async def later(work: Callable[[], object]) -> None:
    await asyncio.to_thread(work)


def row(engine: Engine, name: str) -> Node:
    with engine.begin() as connection:
        found = leases.one(connection, name)
    assert found is not None
    return found


def write(engine: Engine, membership: Membership) -> None:
    with engine.begin() as connection:
        membership.guard(connection)


async def renewed(membership: Membership, times: int = 1) -> None:
    for _ in range(times):
        await asyncio.wait_for(membership.news(), 60)


async def test_a_lease_is_renewed_with_what_the_node_says_and_all_see_all(engine: Engine) -> None:
    terms = Brisk(60.0)
    first, second = take(engine, me(), terms), take(engine, me(), terms)
    async with kept(first), kept(second):
        first.say('{"warm": 3}')
        until = row(engine, first.name).expires_at
        await renewed(first)
        await renewed(second, 2)
        seen = {node.name: node for node in second.nodes}
        assert {first.name, second.name} <= seen.keys()
        assert seen[first.name].report == '{"warm": 3}'
        assert seen[first.name].expires_at > until
        assert first.fence == 1
        write(engine, first)
    assert row(engine, first.name).state is NodeState.AWAY
    assert first.lost_because == "it was left"
    with pytest.raises(Fenced, match="it was left"):
        write(engine, first)


async def test_a_drain_is_known_to_others_when_it_returns_and_can_be_taken_back(engine: Engine) -> None:
    membership = take(engine, me())
    async with kept(membership):
        await membership.drain()
        assert membership.draining
        assert row(engine, membership.name).state is NodeState.DRAINING
        await membership.serve()
        assert row(engine, membership.name).state is NodeState.SERVING


async def test_two_controllers_with_one_name(engine: Engine) -> None:
    name = me().name
    first = take(engine, me("c1", name))
    async with kept(first) as heard:
        with pytest.raises(NameTaken, match=rf"another controller is node '{name}', at here:8500: .* for another \d+"):
            await later(lambda: take(engine, me("c2", name)))
        successor = await asyncio.to_thread(take, engine, me("c1", name))  # or a copy of its data folder
        with pytest.raises(Fenced):
            write(engine, first)  # which makes it look at once
        await heard.until(Standing.LOST)
        assert heard.all == [Standing.LOST]
        assert "has taken its name, at here:8500: a successor, or a copy of the data folder" in first.lost_because
        successor.leave()


async def test_a_lease_that_is_in_force_is_waited_out_when_told_so(engine: Engine) -> None:
    name = me().name
    with engine.begin() as connection:
        leases.take(connection, me("c1", name), SHORT.lease_s)  # and never renewed
    with pytest.raises(NameTaken):
        take(engine, me("c2", name), SHORT)
    second = await asyncio.to_thread(lambda: take(engine, me("c2", name), wait_s=60.0))
    assert second.fence == 2
    second.leave()


async def test_a_node_that_was_taken_over_knows_it_at_its_next_renewal(engine: Engine) -> None:
    membership = take(engine, me(), SHORT)
    async with kept(membership) as heard:
        with engine.begin() as connection:  # what whoever takes over does, at a moment when it may not
            mine = update(nodes).where(nodes.c.name == membership.name)
            connection.execute(mine.values(fence=membership.fence + 1, state=NodeState.LOST))
        await heard.until(Standing.LOST)
        assert membership.lost_because == "another node has taken over what it had, after its lease had run out"


async def test_a_database_whose_clock_is_set_forward_takes_no_lease_away(engine: Engine) -> None:
    membership = take(engine, me())
    async with kept(membership) as heard:
        with engine.begin() as connection:  # seen from the row, the same
            earlier = nodes.c.expires_at - 3600
            connection.execute(update(nodes).where(nodes.c.name == membership.name).values(expires_at=earlier))
        with pytest.raises(Fenced, match="the database says that it has no lease"):
            write(engine, membership)
        await renewed(membership)  # at once, not at its time
        write(engine, membership)
        assert heard.all == []


async def test_a_node_that_slept_knows_that_its_lease_is_over_whatever_the_database_says(engine: Engine) -> None:
    clock = Clock()
    membership = Membership.take(engine, me(), LONG, clock=clock)
    async with kept(membership):
        assert membership.may_dispatch
        clock.ahead = LONG.lease_s / 2 + 1
        assert membership.in_force
        assert not membership.may_dispatch
        clock.ahead = LONG.lease_s
        assert not membership.in_force
        assert row(engine, membership.name).left_s > 0
        with pytest.raises(Fenced, match="its lease was not renewed in time"):
            write(engine, membership)
        clock.ahead = 0.0
        assert membership.standing is Standing.LOST  # for good


async def paused(server: PostgresServer) -> Callable[[], None]:
    server.pause()
    return server.resume


async def stopped(server: PostgresServer) -> Callable[[], None]:
    await later(server.kill)
    return server.start


@pytest.mark.parametrize("fail", [paused, stopped])
async def test_a_database_that_comes_back_in_time_costs_no_lease(
    server: tuple[PostgresServer, str], fail: Callable[[PostgresServer], Awaitable[Callable[[], None]]]
) -> None:
    """The clock stands in for the time that it was away."""
    clock, terms = Clock(), Brisk(200.0)
    membership = Membership.take(engine_of(server[1]), me(), terms, clock=clock)
    async with kept(membership) as heard:
        come_back = await fail(server[0])
        clock.ahead = terms.lease_s * 0.6
        await heard.until(Standing.HALF)
        assert membership.in_force
        await later(come_back)
        await heard.until(Standing.IN_FORCE)
        assert heard.all == [Standing.HALF, Standing.IN_FORCE]


@pytest.mark.parametrize("fail", [paused, stopped])
async def test_a_database_that_does_not_come_back_ends_the_lease_in_time(
    server: tuple[PostgresServer, str], fail: Callable[[PostgresServer], Awaitable[Callable[[], None]]]
) -> None:
    membership = take(engine_of(server[1], timeout_s=1.0), me(), SHORT)
    async with kept(membership) as heard:
        come_back = await fail(server[0])
        try:
            await heard.until(Standing.LOST)
            assert "was not renewed in time" in membership.lost_because
        finally:
            await later(come_back)
        with pytest.raises(Fenced):
            write(engine_of(server[1]), membership)
    assert row(engine_of(server[1]), membership.name).state is NodeState.SERVING  # nobody else has seen to it yet


async def test_the_connection_is_its_threads_until_that_has_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However impatient its caller is: who closed it under the thread would have broken a commit."""
    ends, asked = threading.Event(), threading.Event()
    stop = Membership._stop

    def slowly(membership: Membership, thread: threading.Thread) -> None:
        asked.set()
        ends.wait()
        stop(membership, thread)

    monkeypatch.setattr(Membership, "_stop", slowly)
    membership = await asyncio.to_thread(take, engine, me(), Often(60.0))
    keeping = asyncio.create_task(membership.keep())
    await renewed(membership, 1)
    (thread,) = [each for each in threading.enumerate() if each.name == "lease"]
    try:
        for _ in range(3):
            keeping.cancel()
            await asyncio.to_thread(asked.wait)
        assert not keeping.done()
    finally:
        ends.set()
    await asyncio.wait([keeping])
    assert keeping.cancelled()
    assert not thread.is_alive()
    membership.leave()


async def test_a_database_that_takes_no_writes_ends_the_lease(server: tuple[PostgresServer, str]) -> None:
    membership = take(engine_of(server[1]), me(), SHORT)
    async with kept(membership) as heard:
        name = server[1].rpartition("/")[2]
        server[0].execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'"
        server[0].execute(end)  # as after a failover: they find a standby
        await heard.until(Standing.LOST)
        assert "read-only" in membership.lost_because


async def test_a_slow_database_is_asked_again_in_time(engine: Engine, shared: str) -> None:
    """Each renewal takes longer than there is between two of them."""
    terms = Often(60.0)
    slow = engine_of(shared)

    @event.listens_for(slow, "before_cursor_execute")
    def _wait(_connection: object, cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("UPDATE nodes"):
            cursor.execute("SELECT pg_sleep(1.0)")  # type: ignore[attr-defined]

    membership = await asyncio.to_thread(take, slow, me(), terms)
    async with kept(membership) as heard:
        await renewed(membership, 4)
        assert heard.all == []
        write(engine, membership)


def test_no_database_at_all_is_said(own_server: PostgresServer) -> None:
    with pytest.raises(StoreFailed, match=r"the lease on node 'n' cannot be had: .*does not exist"):
        take(engine_of(own_server.url("nowhere")), me(name="n"))
