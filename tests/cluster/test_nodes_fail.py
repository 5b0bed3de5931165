"""Three nodes of a real Swarm, 60 notebooks of 6 tenants at work, and what goes wrong: an engine is killed, a node is
cut off from the database, one is drained, and an update goes through all of them.

What code does is counted outside of it: each cell calls a function of its client once, with a number of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

import cellyard
from tests.authority import Authority
from tests.cluster.controllers import PORT, until_proven
from tests.cluster.deployment import SERVICE, STARTED_WITHIN_S, deploy, make_ready, operate, stack, take_down
from tests.cluster.machines import Machine, Machines
from tests.cluster.swarm import Swarm
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.docker, pytest.mark.soak, pytest.mark.timeout(1500)]

TENANTS = [f"tenant{number}" for number in range(6)]
NOTEBOOKS = 60
AT = ("--endpoint", "unix:/run/cellyard/controller.sock")
"""Where the operator's commands reach a node's controller, in its task."""
PAUSE_S = 2.0
"""Between two cells of a notebook."""
CELL_S = 2.0
"""How long a cell runs: some are in hand at every moment, whatever fails then."""
ANSWERS_WITHIN_S = 15.0
ALL_AT_WORK_WITHIN_S = 300.0


@dataclass
class Yard:
    """The nodes, and how tenants come in."""

    swarm: Swarm
    authority: Authority
    database: str
    """The address of its server."""
    tokens: dict[str, str] = field(default_factory=dict)

    def client(self, tenant: str, node: Machine) -> cellyard.AsyncClient:
        """A tenant's client at one node."""
        return cellyard.AsyncClient(self._endpoint(node), self.tokens[tenant], tls=cellyard.TLS(self.authority.ca))

    def session(self, tenant: str, notebook: str, node: Machine) -> cellyard.AsyncSession:
        """A tenant's session that asks one node first."""
        return cellyard.AsyncSession(
            notebook,
            endpoint=self._endpoint(node),
            token=self.tokens[tenant],
            tls=cellyard.TLS(self.authority.ca),
            start_timeout=ALL_AT_WORK_WITHIN_S,
        )

    def _endpoint(self, node: Machine) -> str:
        return f"{node.address}:{PORT}"


@pytest.fixture(scope="module")
def yard(built_image: str) -> Iterator[Yard]:
    machines = Machines()
    server = None
    try:
        server = PostgresServer(host=machines.add_address())
        machines.prepare_images(built_image)
        for _ in range(3):
            machines.start_engine(machines.add())  # called by their addresses, which is what clients are sent to
        swarm = Swarm(machines, *machines.machines)
        folder = machines.machines[0].folder
        authority = make_ready(swarm, folder, built_image)
        small = {"CELLYARD_TEMPLATES__DEFAULT__MEMORY": str(256 * 1024 * 1024), "CELLYARD_POOL__SIZE": "1"}
        deploy(swarm.nodes[0], stack(folder, **small), CELLYARD_STORE__URL=server.create(), CELLYARD_DOMAIN="")
        names = {node.name for node in swarm.nodes}
        swarm.until(lambda: set(swarm.running(SERVICE)) == names, STARTED_WITHIN_S)
        yard = Yard(swarm, authority, server.host)
        for tenant in TENANTS:
            yard.tokens[tenant] = operate(swarm.nodes[0], "tenants", "create", tenant).split()[-1]
        for node in swarm.nodes:
            with cellyard.Client(
                f"{node.address}:{PORT}", yard.tokens[TENANTS[0]], tls=cellyard.TLS(authority.ca)
            ) as at:
                until_proven(at)
        yield yard
        take_down(swarm)
    finally:
        machines.close()
        if server is not None:
            server.close()


class Work:
    """One notebook that is at work all the time."""

    def __init__(self, yard: Yard, number: int) -> None:
        self.tenant, self.notebook = TENANTS[number % len(TENANTS)], f"notebook-{number}"
        self.home = yard.swarm.nodes[number % len(yard.swarm.nodes)]
        self.done = Counter[int]()
        """How often the code of each number has called, as the client counts it."""
        self.ends: dict[int, cellyard.ExecutionResult] = {}
        self.errors: list[str] = []
        """What the SDK could not heal."""
        self.kernels: list[str] = []
        """Those that have answered, in their order."""
        self.first = asyncio.Event()
        self._yard, self._number, self._stop = yard, 0, asyncio.Event()

    async def run(self) -> None:
        """Runs cell after cell until `stop`."""
        async with self._yard.session(self.tenant, self.notebook, self.home) as session:
            while not self._stop.is_set():
                await self._one(session)
                try:
                    await asyncio.wait_for(self._stop.wait(), PAUSE_S)
                except TimeoutError:
                    pass

    def stop(self) -> None:
        """After the cell in hand."""
        self._stop.set()

    async def _one(self, session: cellyard.AsyncSession) -> None:
        self._number += 1
        number = self._number

        def mark() -> None:
            self.done[number] += 1

        code = (
            "import os, time\nfrom cellyard_sandbox import host\n"
            "kernel = globals().get('kernel') or os.urandom(4).hex()\n"
            f"host.mark()\ntime.sleep({CELL_S})\n({number}, kernel)"
        )
        try:
            result = await session.run(code, host_calls={"mark": mark})
        except cellyard.errors.CellyardError as error:
            self.errors.append(f"{number}: {type(error).__name__}: {error}")
            return
        self.ends[number] = result
        if result.success:
            assert result.value[0] == number
            if not self.kernels or self.kernels[-1] != result.value[1]:
                self.kernels.append(result.value[1])
            self.first.set()


@asynccontextmanager
async def at_work(yard: Yard) -> AsyncIterator[list[Work]]:
    """All notebooks, once each has answered."""
    works = [Work(yard, number) for number in range(NOTEBOOKS)]
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work.run())
        async with asyncio.timeout(ALL_AT_WORK_WITHIN_S):
            for work in works:
                await work.first.wait()
        try:
            yield works
        finally:
            for work in works:
                work.stop()


async def answers(yard: Yard, works: list[Work], ask: Machine) -> float:
    """Seconds until every notebook has answered somebody who comes anew."""
    began = time.monotonic()
    slots = asyncio.Semaphore(12)

    async def one(work: Work) -> None:
        async with slots, yard.session(work.tenant, work.notebook, ask) as session:
            await session.connect()
            assert await session.get_cells()

    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(one(work))
    return time.monotonic() - began


async def moves_on(works: list[Work], within_s: float) -> None:
    """Waits until each notebook has run another cell with success."""
    marks = [len([1 for end in work.ends.values() if end.success]) for work in works]
    async with asyncio.timeout(within_s):
        for work, mark in zip(works, marks, strict=True):
            while len([1 for end in work.ends.values() if end.success]) <= mark:  # noqa: ASYNC110 - it is counted
                await asyncio.sleep(0.2)


def ends_of(works: list[Work]) -> Counter[str]:
    return Counter(f"{end.end}{{{end.end_reason or ''}}}" for work in works for end in work.ends.values())


async def test_nodes_fail_and_nothing_that_was_accepted_disappears_or_runs_twice(yard: Yard) -> None:
    first, second, third = yard.swarm.nodes
    told: list[str] = []
    async with at_work(yard) as works:
        nodes = await _nodes(yard, first)
        assert all(node["notebooks"] for node in nodes.values()), "all nodes have some of them"
        assert not any(work.errors for work in works)

        # An engine is killed, and started again as a service manager does: its containers are gone.
        second.kill_engine()
        await asyncio.to_thread(second.start_engine)
        _say(told, f"engine: {await answers(yard, works, first):.1f} s")
        assert any(end.end == "lost" for work in works for end in work.ends.values()), "cells ran there"
        await moves_on(works, ALL_AT_WORK_WITHIN_S)

        # A node does not reach the database any more, nor does its next controller.
        third.lose_way_to(yard.database)
        _say(told, f"database: {await answers(yard, works, first):.1f} s")
        assert (await _nodes(yard, first))[third.name]["state"] == "lost"
        third.find_way_to(yard.database)
        await asyncio.to_thread(yard.swarm.until, lambda: len(yard.swarm.running(SERVICE)) == 3, STARTED_WITHIN_S)

        await moves_on(works, ALL_AT_WORK_WITHIN_S)  # those too whose sessions ask that node first

        # One is drained.
        await asyncio.to_thread(operate, first, "nodes", "drain", second.name, *AT)
        async with asyncio.timeout(60):
            while (await _nodes(yard, first))[second.name]["state"] != "draining":  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.2)
        for number in range(6):
            async with yard.session(TENANTS[number], f"new-{number}", second) as session:
                assert (await session.run("1")).value == 1
        async with yard.client(TENANTS[0], first) as client:
            assert second.name not in {
                each.node for each in await client.list_sandboxes() if each.notebook_id == "new-0"
            }
        _say(told, f"drain: {await answers(yard, works, first):.1f} s")
        await asyncio.to_thread(operate, first, "nodes", "resume", second.name, *AT)

        # An update of all controllers: kernels go on, and so does everything that was accepted.
        before = yard.swarm.running(SERVICE)
        lost, errors = ends_of(works), [list(work.errors) for work in works]
        await asyncio.to_thread(
            first.docker, "service", "update", "--detach", "--env-add", "CELLYARD_UPKEEP_INTERVAL=599", SERVICE
        )
        update = time.monotonic()
        await asyncio.to_thread(
            yard.swarm.until,
            lambda: len(now := yard.swarm.running(SERVICE)) == 3 and now.items().isdisjoint(before.items()),
            3 * STARTED_WITHIN_S,
        )
        _say(told, f"update: {time.monotonic() - update:.0f} s")
        await moves_on(works, ALL_AT_WORK_WITHIN_S)
        assert {name: count for name, count in (ends_of(works) - lost).items() if "lost" in name} == {}
        assert [list(work.errors) for work in works] == errors

    print("\n".join([*told, str(ends_of(works)), *[each for work in works for each in work.errors]]))
    for work in works:
        for number, end in work.ends.items():
            assert work.done[number] <= 1, "no code ran twice"
            if end.success:
                assert work.done[number] == 1
            else:
                assert end.end in ("lost", "cancelled"), end
        async with yard.client(work.tenant, first) as client:
            stored = {each.execution_id: each for each in await client.list_executions(work.notebook, 1000)}
        kept = [end for end in work.ends.values() if end.execution_id in stored]
        assert len(kept) == len(work.ends) or len(stored) >= 100, "what was accepted is there"
        assert all(each.end for each in stored.values()), "and has its end"
        assert sum(work.done.values()) <= len(stored) or len(stored) >= 100
    for line in told[:3]:
        assert float(line.split()[1]) <= ANSWERS_WITHIN_S, told


def _say(told: list[str], what: str) -> None:
    told.append(what)
    print(what, flush=True)


async def _nodes(yard: Yard, node: Machine) -> dict[str, dict[str, object]]:
    said = await asyncio.to_thread(operate, node, "nodes", "list", "--json", *AT)
    return {each["name"]: each for each in json.loads(said)}
