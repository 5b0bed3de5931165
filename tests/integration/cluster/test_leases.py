"""Nodes' leases and the notebooks they have, in PostgreSQL: what one transaction does, and what two do at once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import pytest
from sqlalchemy import Connection, Engine, insert, select, update
from tests.integration.cluster.rows import add_execution

from cellyard_controller.cluster import handed_over, leases, owners
from cellyard_controller.cluster.leases import Held, Identity, Node, Taken
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Given, Hold
from cellyard_controller.ids import NotebookId, NotebookRef, TenantName
from cellyard_controller.store.schema import nodes, notebooks, sandboxes

T = TypeVar("T")

LEASE = 60.0
"""Nothing here waits for one to run out: `lapse` moves its end."""


def new(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def me(name: str, controller: str = "c1") -> Identity:
    return Identity(name, controller, f"{name}:8500")


def ref(name: str) -> NotebookRef:
    return NotebookRef(TenantName("alice"), NotebookId(name))


def add(connection: Connection, which: NotebookRef) -> int:
    row = insert(notebooks).values(
        tenant=which.tenant, notebook_id=which.notebook_id, created_at=0.0, changed_at=0.0, labels="{}"
    )
    key = connection.execute(row.returning(notebooks.c.key)).scalar_one()
    return int(key)


def do(engine: Engine, work: Callable[..., T], *arguments: object) -> T:
    with engine.begin() as connection:
        return work(connection, *arguments)


def taken(engine: Engine, name: str, controller: str = "c1") -> int:
    got = do(engine, leases.take, me(name, controller), LEASE)
    assert isinstance(got, Taken)
    return got.fence


def lapse(engine: Engine, name: str) -> Node:
    """As if a lease's time went by."""
    with engine.begin() as connection:
        connection.execute(update(nodes).where(nodes.c.name == name).values(expires_at=nodes.c.expires_at - 2 * LEASE))
    return node(engine, name)


def node(engine: Engine, name: str) -> Node:
    found = do(engine, leases.one, name)
    assert found is not None
    return found


def give_new(engine: Engine, which: NotebookRef, to: str) -> Given:
    return do(engine, owners.give, which, to, lambda connection: add(connection, which))[0]


def hold(engine: Engine, which: NotebookRef, name: str, fence: int) -> Hold:
    found = do(engine, owners.find, which)
    assert found is not None
    return found.hold(name, fence)


def test_a_name_is_taken_once_and_its_fence_counts_up(engine: Engine) -> None:
    name = new("n")
    assert taken(engine, name) == 1
    held = do(engine, leases.take, me(name, "other"), LEASE)
    assert isinstance(held, Held)
    assert held.node.endpoint == f"{name}:8500"
    assert 0 < held.node.left_s <= LEASE
    assert taken(engine, name) == 2  # its own successor does not wait
    lapse(engine, name)
    assert taken(engine, name, "other") == 3


def test_what_a_node_had_goes_over_to_the_successor_of_its_name(engine: Engine) -> None:
    name, which = new("n"), ref(new("nb"))
    first = taken(engine, name)
    assert give_new(engine, which, name) is Given.DONE
    second = taken(engine, name)
    assert hold(engine, which, name, second) is Hold.HERE
    assert hold(engine, which, name, first) is Hold.IN_DOUBT
    assert not do(engine, leases.holds, name, first)
    assert list(do(engine, owners.had_by, name, second).values()) == [which]


def test_a_renewal_prolongs_says_and_is_refused_to_who_lost_it(engine: Engine) -> None:
    name = new("n")
    fence = taken(engine, name)
    lapse(engine, name)
    assert not do(engine, leases.holds, name, fence)
    # Late, but nobody was faster: a database's clock that was set forward takes nothing away.
    assert do(engine, leases.renew, name, fence, LEASE, NodeState.DRAINING, '{"free": 1}')
    now = node(engine, name)
    assert (now.state, now.report) == (NodeState.DRAINING, '{"free": 1}')
    assert now.left_s == pytest.approx(LEASE, abs=30)
    assert do(engine, leases.holds, name, fence)
    taken(engine, name)
    assert not do(engine, leases.renew, name, fence, LEASE, NodeState.SERVING, "{}")


def test_a_node_that_left_can_be_taken_at_once_and_has_what_it_had_until_then(engine: Engine) -> None:
    name, other, which = new("n"), new("o"), ref(new("nb"))
    fence, theirs = taken(engine, name), taken(engine, other)
    give_new(engine, which, name)
    do(engine, leases.leave, name, fence, LEASE)
    assert node(engine, name).state is NodeState.AWAY
    assert hold(engine, which, other, theirs) is Hold.IN_DOUBT
    assert hold(engine, which, name, taken(engine, name, "other")) is Hold.HERE


def test_a_lease_is_ended_only_once_it_has_run_out_and_as_it_was_seen(engine: Engine) -> None:
    name = new("n")
    fence = taken(engine, name)
    assert not do(engine, leases.end, node(engine, name))
    seen = lapse(engine, name)
    assert not do(engine, leases.end, replace(seen, expires_at=seen.expires_at - 1))
    assert do(engine, leases.end, seen)
    assert not do(engine, leases.end, seen)
    assert (node(engine, name).fence, node(engine, name).state) == (fence + 1, NodeState.LOST)
    assert taken(engine, name) == fence + 2


def test_what_a_lost_node_had_is_somebodys_or_anybodys_in_one_step(engine: Engine) -> None:
    lost, heir = new("lost"), new("heir")
    taken(engine, lost)
    fence = taken(engine, heir)
    running, queued, seated, ended, idle, never = (ref(new(name)) for name in ("r", "q", "s", "e", "i", "x"))
    for which in (running, queued, seated, ended, idle):
        give_new(engine, which, lost)
    with engine.begin() as connection:
        add(connection, never)
        key = {which: _key(connection, which) for which in (running, queued, seated, ended, idle)}
        for which, state in ((running, "started"), (queued, "queued"), (ended, "ended")):
            add_execution(connection, key[which], state)
        mine, theirs = new("sb"), new("sb")
        _sandbox(connection, mine, lost, key[seated])
        _sandbox(connection, theirs, heir, None)
    assert do(engine, owners.inherit, node(engine, lost), heir, fence) is None  # it is not lost yet
    seen = lapse(engine, lost)
    got = do(engine, owners.inherit, seen, heir, fence)
    assert got is not None
    assert set(got.notebooks.values()) == {running, queued, seated}
    assert {got.notebooks[k] for k in got.notebooks} == {which for which in key if key[which] in got.notebooks}
    assert got.sandboxes == 1
    for which in (running, queued, seated):
        assert hold(engine, which, heir, fence) is Hold.HERE
    for which in (ended, idle, never):
        assert hold(engine, which, heir, fence) is Hold.NOBODY
    with engine.begin() as connection:
        rows = connection.execute(
            select(sandboxes.c.sandbox_id, sandboxes.c.end_reason).where(sandboxes.c.sandbox_id.in_([mine, theirs]))
        )
        assert {tuple(row) for row in rows} == {(mine, "node_lost"), (theirs, "")}
    assert do(engine, owners.inherit, seen, heir, fence) is None  # somebody was first


def test_what_a_lost_node_was_to_open_its_heir_opens(engine: Engine) -> None:
    giver, lost, which = new("giver"), new("lost"), ref(new("nb"))
    fence, _ = taken(engine, giver), taken(engine, lost)
    give_new(engine, which, giver)
    with engine.begin() as connection:
        key = _key(connection, which)
        add_execution(connection, key, "queued")
    assert do(engine, owners.hand_over, key, giver, fence, lost)
    assert do(engine, handed_over.find, lost) == [key]
    got = do(engine, owners.inherit, lapse(engine, lost), giver, fence)
    assert got is not None
    assert got.notebooks == {key: which}
    assert do(engine, handed_over.find, lost) == []


def test_a_notebook_is_given_to_one_node_that_serves(engine: Engine) -> None:
    a, b, which = new("a"), new("b"), ref(new("nb"))
    fence, other = taken(engine, a), taken(engine, b)
    assert give_new(engine, which, new("nobody")) is Given.NOT_SERVING
    assert give_new(engine, which, a) is Given.DONE
    assert give_new(engine, which, b) is Given.TAKEN
    assert hold(engine, which, b, other) is Hold.THERE
    do(engine, owners.give_up, which, b, other)  # it does not have it
    assert hold(engine, which, a, fence) is Hold.HERE
    do(engine, owners.give_up, which, a, fence)
    assert hold(engine, which, a, fence) is Hold.NOBODY
    do(engine, leases.renew, b, other, LEASE, NodeState.DRAINING, "{}")
    assert give_new(engine, which, b) is Given.NOT_SERVING
    lapse(engine, a)
    assert give_new(engine, which, a) is Given.NOT_SERVING
    do(engine, leases.renew, a, fence, LEASE, NodeState.SERVING, "{}")
    assert do(engine, owners.give, ref(new("none")), a)[0] is Given.TAKEN  # there is none, and none is to be made
    assert give_new(engine, which, a) is Given.DONE


def test_only_idle_notebooks_are_given_up_for_a_drain(engine: Engine) -> None:
    name = new("n")
    fence = taken(engine, name)
    busy, seated, kept, idle = (ref(new("nb")) for _ in range(4))
    for which in (busy, seated, kept, idle):
        give_new(engine, which, name)
    with engine.begin() as connection:
        add_execution(connection, _key(connection, busy), "queued")
        _sandbox(connection, new("sb"), name, _key(connection, seated))
    assert do(engine, owners.give_up_idle, name, fence, [kept]) == 1
    assert hold(engine, idle, name, fence) is Hold.NOBODY
    for which in (busy, seated, kept):
        assert hold(engine, which, name, fence) is Hold.HERE
    assert not do(engine, owners.give_up_if_idle, name, fence, busy)
    assert do(engine, owners.give_up_if_idle, name, fence, kept)
    assert do(engine, owners.give_up_idle, name, fence, []) == 0


def test_of_two_that_take_a_name_at_once_one_gets_it(engine: Engine) -> None:
    for _ in range(10):
        name = new("n")
        rivals = [me(name, controller) for controller in ("x", "y", "z")]
        got = at_once(engine, *(lambda c, rival=rival: leases.take(c, rival, LEASE) for rival in rivals))
        fences = [each.fence for each in got if isinstance(each, Taken)]
        assert fences == [1]


def test_of_two_that_take_over_a_lost_node_at_once_one_does(engine: Engine) -> None:
    heirs = [new("h") for _ in range(3)]
    fences = {heir: taken(engine, heir) for heir in heirs}
    for _ in range(10):
        lost, which = new("lost"), ref(new("nb"))
        taken(engine, lost)
        give_new(engine, which, lost)
        do(engine, lambda c, w=which: add_execution(c, _key(c, w), "started"))
        seen = lapse(engine, lost)
        got = at_once(
            engine,
            *(lambda c, seen=seen, heir=heir: owners.inherit(c, seen, heir, fences[heir]) for heir in heirs),
        )
        [winner] = [heir for heir, each in zip(heirs, got, strict=True) if each is not None]
        assert [heir for heir in heirs if hold(engine, which, heir, fences[heir]) is Hold.HERE] == [winner]


def test_of_many_that_give_the_same_notebooks_in_another_order_one_does_and_none_waits(engine: Engine) -> None:
    """Each has all of them in one transaction, as the one writer of a controller does."""
    names = [new("n") for _ in range(3)]
    fences = {name: taken(engine, name) for name in names}
    for round_number in range(8):
        wanted = [ref(new("nb")) for _ in range(8)]
        if round_number % 2:  # there already, and nobody's
            with engine.begin() as connection:
                for which in wanted:
                    add(connection, which)

        def give_all(connection: Connection, name: str, order: list[NotebookRef]) -> list[Given]:
            return [owners.give(connection, which, name, lambda c, which=which: add(c, which))[0] for which in order]

        at_once(
            engine,
            *(
                lambda c, name=name, turn=turn, wanted=wanted: give_all(c, name, wanted[turn:] + wanted[:turn])
                for turn, name in enumerate(names)
            ),
        )
        for which in wanted:
            here = [name for name in names if hold(engine, which, name, fences[name]) is Hold.HERE]
            assert len(here) == 1


def test_a_transaction_that_began_under_the_lease_ends_before_somebody_takes_over(engine: Engine) -> None:
    lost, heir, which = new("lost"), new("heir"), ref(new("nb"))
    fence, theirs = taken(engine, lost), taken(engine, heir)
    give_new(engine, which, lost)
    ended = threading.Event()
    with engine.connect() as writer, ThreadPoolExecutor(1) as threads:
        writer.begin()
        assert leases.holds(writer, lost, fence)
        writer.execute(update(notebooks).where(notebooks.c.notebook_id == which.notebook_id).values(kernel_end="mine"))
        seen = lapse(engine, lost)  # a renewal does the same: neither waits for the writer

        def take_over() -> tuple[bool, str]:
            with engine.begin() as connection:
                got = owners.inherit(connection, seen, heir, theirs) is not None
                row = select(notebooks.c.kernel_end).where(notebooks.c.notebook_id == which.notebook_id)
                return got and ended.is_set(), connection.execute(row).scalar_one()

        taking = threads.submit(take_over)
        while not _is_waited_for(engine):
            assert not taking.done()
        ended.set()
        writer.commit()
        assert taking.result(30) == (True, "mine")
        writer.begin()
        assert not leases.holds(writer, lost, fence)


def test_a_renewal_does_not_wait_for_what_is_written(engine: Engine) -> None:
    name = new("n")
    fence = taken(engine, name)
    with engine.begin() as writer:
        assert leases.holds(writer, name, fence)
        assert do(engine, leases.renew, name, fence, LEASE, NodeState.SERVING, "{}")
        with engine.begin() as second:
            assert leases.holds(second, name, fence)


def at_once(engine: Engine, *works: Callable[[Connection], T]) -> list[T]:
    """Runs each in a transaction of its own, all begun at the same moment."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[Connection], T]) -> T:
        with engine.connect() as connection:
            barrier.wait(30)
            with connection.begin():
                return work(connection)

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run, works))


def _is_waited_for(engine: Engine) -> bool:
    with engine.begin() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(connection.exec_driver_sql(waiting).scalar_one())


def _key(connection: Connection, which: NotebookRef) -> int:
    row = select(notebooks.c.key).where(notebooks.c.notebook_id == which.notebook_id)
    return int(connection.execute(row).scalar_one())


def _sandbox(connection: Connection, sandbox_id: str, of: str, key: int | None) -> None:
    connection.execute(
        insert(sandboxes).values(
            sandbox_id=sandbox_id,
            runtime="fake",
            template="default",
            uid=1,
            state="claimed",
            notebook_key=key,
            created_at=0.0,
            node=of,
        )
    )
