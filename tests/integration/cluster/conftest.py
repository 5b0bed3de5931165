"""A PostgreSQL database with the store's tables, and engines like those that leases are kept on."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, Engine, insert
from tests.postgres_server import PostgresServer

from cellyard_controller.cluster.leases import Identity, Node
from cellyard_controller.cluster.membership import Membership, uptime
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.owners import Inherited
from cellyard_controller.cluster.ownerships import Ownerships
from cellyard_controller.cluster.standing import Terms
from cellyard_controller.cluster.takeover import Takeover
from cellyard_controller.ids import NotebookRef
from cellyard_controller.store import Store, places
from cellyard_controller.store.schema import notebooks

T = TypeVar("T")


class Often(Terms):
    """A lease so long that it is kept on however slow a machine, and often renewed."""

    @property
    def renew_every_s(self) -> float:
        return 0.3

    @property
    def patience_s(self) -> float:
        return 1.0


class Brisk(Often):
    """Such a lease, with renewals that are soon given up: what a test does to the server shows at once."""

    @property
    def attempt_s(self) -> float:
        return 1.0

    @property
    def retry_s(self) -> float:
        return 0.1


def engine_of(url: str, timeout_s: float = 30.0) -> Engine:
    """As a controller has it for its lease."""
    return places.engine(places.Postgres(url, Path("/nowhere")), purpose="lease", timeout_s=timeout_s)


def prepare(url: str) -> None:
    """Makes the tables."""
    Store.open(places.Postgres(url, Path("/nowhere"))).close()


@pytest.fixture(scope="module")
def shared(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database with the store's tables, for all tests of a module: each uses names of its own."""
    url = postgres.create()
    prepare(url)
    yield url
    postgres.drop(url)


@pytest.fixture
def engine(shared: str) -> Iterator[Engine]:
    """Its transactions begin as a lease's do."""
    made = engine_of(shared).execution_options(isolation_level="READ COMMITTED")
    yield made
    made.dispose()


class Clock:
    """A node's clock that a test sets forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return uptime() + self.ahead


class Counted:
    """A store whose reads are counted."""

    def __init__(self, store: Store) -> None:
        self._store, self.reads = store, 0

    async def write(self, work: Callable[[Connection], T], *, alone: bool = False) -> T:
        """As the store does."""
        return await self._store.write(work, alone=alone)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As the store does."""
        self.reads += 1
        return await self._store.read(work)


class NodeHere:
    """A node with all its parts but the rooms."""

    def __init__(self, url: str, name: str, terms: Terms) -> None:
        self.clock = Clock()
        me = Identity(name, name, f"{name}:8500")
        self.membership = Membership.take(engine_of(url), me, terms, clock=self.clock)
        self._url = url
        self._spool = tempfile.TemporaryDirectory(prefix="cy")
        self._store = Store.open(places.Postgres(url, Path(self._spool.name)))
        self._store.guard = self.membership.guard
        self.store = Counted(self._store)
        self.to = name
        """Where notebooks that nobody has are placed."""
        self.offered: list[tuple[set[str], str | None]] = []
        """What placement was given to choose from, and who had the notebook last."""
        self.ownerships = Ownerships(self.membership, self.store, self._place, self._new)
        self.recovered: asyncio.Queue[Inherited] = asyncio.Queue()
        self.failures: list[Exception] = []
        """What recovering raises first."""
        self.takeover = Takeover(self.membership, engine_of(url), self._recover)
        self.refusal: Exception | None = None
        """Why no notebook may be added."""

    @property
    def name(self) -> str:
        return self.membership.name

    async def _end(self) -> None:
        await asyncio.to_thread(self._store.close)
        await asyncio.to_thread(self.membership.leave)
        self._spool.cleanup()

    def _place(self, _ref: NotebookRef, nodes: Sequence[Node], last: str | None) -> str | None:
        names = {node.name for node in nodes}
        self.offered.append((names, last))
        return self.to if self.to in names else self.name if self.name in names else None

    async def _new(self, ref: NotebookRef) -> Callable[[Connection], object]:
        if self.refusal is not None:
            raise self.refusal
        row = {"tenant": ref.tenant, "notebook_id": ref.notebook_id, "created_at": 0.0, "changed_at": 0.0}
        return lambda connection: connection.execute(insert(notebooks).values(**row, labels="{}"))

    async def _recover(self, inherited: Inherited) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.recovered.put_nowait(inherited)

    @asynccontextmanager
    async def running(self, *, watch: bool = False) -> AsyncIterator[NodeHere]:
        """Its lease is renewed meanwhile, and let go of afterwards. `watch`: it looks after lost nodes, too."""
        tasks = [asyncio.create_task(self.membership.keep())]
        if watch:
            tasks.append(asyncio.create_task(self.takeover.watch()))
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._end()

    @asynccontextmanager
    async def abandoned(self) -> AsyncIterator[NodeHere]:
        """Its lease is not renewed."""
        try:
            yield self
        finally:
            await self._end()

    def again(self) -> NodeHere:
        """Its successor of the same name and data folder."""
        return NodeHere(self._url, self.name, self.membership.terms)

    async def knows(self, *names: str) -> None:
        """Returns once it has read of these nodes that they serve."""
        while not set(names) <= {node.name for node in self.membership.nodes if node.state is NodeState.SERVING}:
            await asyncio.wait_for(self.membership.news(), 60)


@pytest.fixture
def node(shared: str) -> Callable[..., NodeHere]:
    """Makes a node, with a lease that is kept unless told otherwise."""

    def make(name: str = "n", terms: Terms | None = None) -> NodeHere:
        return NodeHere(shared, f"{name}-{uuid.uuid4().hex[:8]}", terms or Often(60.0))

    return make
