"""Several nodes in any order of takings, lapses and losses: never two owners, and a fenced node writes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine, insert, select, update
from tests.integration.cluster.rows import add_execution

from cellyard_controller.cluster import handed_over, leases, owners
from cellyard_controller.cluster.leases import Identity, Node, Taken
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Given, Hold
from cellyard_controller.ids import NotebookId, NotebookRef, TenantName
from cellyard_controller.store.schema import nodes, notebooks

LEASE = 600.0
NAMES = st.sampled_from(["a", "b", "c"])
BOOKS = st.sampled_from(["x", "y"])


@dataclass
class Holder:
    """A controller that once took a name, and believes in its fence for ever: the worst that there is."""

    name: str
    fence: int


class Nodes(RuleBasedStateMachine):
    """What the database says, against what must be so."""

    engine: Engine

    @initialize()
    def begin(self) -> None:
        """Names and notebooks of its own."""
        self.connection = self.engine.connect()
        self.prefix = uuid.uuid4().hex[:8]
        self.holders: list[Holder] = []
        self.fences: dict[str, int] = {}
        self.in_force: dict[str, int] = {}
        """The fence that is in force, of each name; what the database must agree with."""
        self.owner: dict[str, tuple[str, int]] = {}
        self.unfinished: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.connection.begin():
            yield self.connection

    def name(self, which: str) -> str:
        return f"{self.prefix}-{which}"

    def ref(self, book: str) -> NotebookRef:
        return NotebookRef(TenantName("t"), NotebookId(self.name(book)))

    def node(self, which: str) -> Node | None:
        with self.transaction() as connection:
            return leases.one(connection, self.name(which))

    @rule(which=NAMES, controller=st.sampled_from(["1", "2"]))
    def take(self, which: str, controller: str) -> None:
        before = self.node(which)
        with self.transaction() as connection:
            got = leases.take(connection, Identity(self.name(which), controller, ""), LEASE)
        may = which not in self.in_force or (before is not None and before.controller_id == controller)
        assert isinstance(got, Taken) == may
        if isinstance(got, Taken):
            kept = before is not None and before.state is not NodeState.LOST
            for book, (name, fence) in list(self.owner.items()):
                if kept and before is not None and (name, fence) == (which, before.fence):
                    self.owner[book] = which, got.fence
            self.in_force[which] = got.fence
            self.holders.append(Holder(which, got.fence))

    @rule(which=NAMES)
    def lapse(self, which: str) -> None:
        """As if a lease's time went by."""
        with self.transaction() as connection:
            mine = update(nodes).where(nodes.c.name == self.name(which))
            connection.execute(mine.values(expires_at=nodes.c.expires_at - 2 * LEASE))
        self.in_force.pop(which, None)

    @rule(number=st.integers(0, 20))
    def renew(self, number: int) -> None:
        """Whoever ever held a name tries it again."""
        if not self.holders:
            return
        holder = self.holders[number % len(self.holders)]
        with self.transaction() as connection:
            done = leases.renew(connection, self.name(holder.name), holder.fence, LEASE, NodeState.SERVING, "{}")
        node = self.node(holder.name)
        assert node is not None
        assert done == (node.fence == holder.fence)
        if done:
            self.in_force[holder.name] = holder.fence

    @rule(by=NAMES, lost=NAMES)
    def take_over(self, by: str, lost: str) -> None:
        seen = self.node(lost)
        if by == lost or by not in self.in_force or seen is None:
            return
        with self.transaction() as connection:
            got = owners.inherit(connection, seen, self.name(by), self.in_force[by])
            assert leases.holds(connection, self.name(by), self.in_force[by])
        assert (got is not None) == (lost not in self.in_force and seen.state is not NodeState.LOST)
        if got is not None:
            with self.transaction() as connection:
                assert not handed_over.find(connection, self.name(lost)), "its heir sees to it"
            had = {book for book, owner in self.owner.items() if owner == (lost, seen.fence)}
            assert set(got.notebooks.values()) == {self.ref(book) for book in had & self.unfinished}
            for book in had:
                del self.owner[book]
                if book in self.unfinished:
                    self.owner[book] = by, self.in_force[by]

    @rule(by=NAMES, to=NAMES, book=BOOKS)
    def give(self, by: str, to: str, book: str) -> None:
        if by not in self.in_force:
            return
        with self.transaction() as connection:
            assert leases.holds(connection, self.name(by), self.in_force[by])
            given, _ = owners.give(connection, self.ref(book), self.name(to), lambda c: self.add(c, book))
        if to not in self.in_force:
            assert given is Given.NOT_SERVING
        else:
            assert (given is Given.DONE) == (book not in self.owner)
            if given is Given.DONE:
                self.owner[book] = to, self.in_force[to]

    @rule(number=st.integers(0, 20), book=BOOKS)
    def give_up(self, number: int, book: str) -> None:
        """Whoever ever held a name tries it, with a fence that may be another's by now."""
        if not self.holders:
            return
        holder = self.holders[number % len(self.holders)]
        with self.transaction() as connection:
            owners.give_up(connection, self.ref(book), self.name(holder.name), holder.fence)
        if self.owner.get(book) == (holder.name, holder.fence):
            del self.owner[book]

    @rule(number=st.integers(0, 20), to=NAMES, book=BOOKS)
    def hand_over(self, number: int, to: str, book: str) -> None:
        """Whoever ever held a name gives a notebook to another node, if the guard lets it."""
        if not self.holders:
            return
        holder = self.holders[number % len(self.holders)]
        with self.transaction() as connection:
            named = select(notebooks.c.key).where(notebooks.c.notebook_id == self.name(book))
            key = connection.execute(named).scalar_one_or_none()
            if key is None or not leases.holds(connection, self.name(holder.name), holder.fence):
                return
            given = owners.hand_over(connection, key, self.name(holder.name), holder.fence, self.name(to))
            told = key in handed_over.find(connection, self.name(to))
        assert given == (self.owner.get(book) == (holder.name, holder.fence) and to in self.in_force)
        if given:
            assert told
            self.owner[book] = to, self.in_force[to]

    @rule(number=st.integers(0, 20), book=BOOKS)
    def write(self, number: int, book: str) -> None:
        """Whoever ever held a name accepts an execution, if the guard lets it."""
        if not self.holders:
            return
        holder = self.holders[number % len(self.holders)]
        with self.transaction() as connection:
            may = leases.holds(connection, self.name(holder.name), holder.fence)
            assert may == (self.in_force.get(holder.name) == holder.fence)
            found = owners.find(connection, self.ref(book))
            has = found is not None and found.hold(self.name(holder.name), holder.fence) is Hold.HERE
            if may:
                assert has == (self.owner.get(book) == (holder.name, holder.fence))
                if has:
                    self.accept(connection, book)

    @invariant()
    def fences_only_grow(self) -> None:
        if not hasattr(self, "fences"):
            return
        with self.transaction() as connection:
            rows = connection.execute(select(nodes.c.name, nodes.c.fence).where(nodes.c.name.startswith(self.prefix)))
            now = {row.name: row.fence for row in rows}
        assert all(now[name] >= fence for name, fence in self.fences.items())
        self.fences = now

    @invariant()
    def a_notebook_is_at_most_one_nodes(self) -> None:
        if not hasattr(self, "holders"):
            return
        with self.transaction() as connection:
            for book in ("x", "y"):
                found = owners.find(connection, self.ref(book))
                writers = [
                    (holder.name, holder.fence)
                    for holder in self.holders
                    if found is not None
                    and found.hold(self.name(holder.name), holder.fence) is Hold.HERE
                    and leases.holds(connection, self.name(holder.name), holder.fence)
                ]
                assert len(writers) <= 1
                if book in self.owner and self.in_force.get(self.owner[book][0]) == self.owner[book][1]:
                    assert writers == [self.owner[book]]

    def add(self, connection: Connection, book: str) -> None:
        row = {"tenant": "t", "notebook_id": self.name(book), "created_at": 0.0, "changed_at": 0.0, "labels": "{}"}
        connection.execute(insert(notebooks).values(row))

    def accept(self, connection: Connection, book: str) -> None:
        key = select(notebooks.c.key).where(notebooks.c.notebook_id == self.name(book)).scalar_subquery()
        add_execution(connection, key, "queued")
        self.unfinished.add(book)


def test_nodes_in_any_order_of_events(engine: Engine) -> None:
    class OnThis(Nodes):
        pass

    OnThis.engine = engine
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        OnThis, settings=settings(max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    )
