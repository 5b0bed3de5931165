"""Hot runs on one, two and three nodes that share one PostgreSQL server, all on this machine.

The nodes, the server, the kernels and the clients share its processors. So the rate says what a further node costs
rather than what it brings; the processor time of a run says what it would bring on a machine of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.conftest import Launch, at_once, pool_of
from tests.bench.report import Row, rate, row
from tests.integration.cluster.nodes import Nodes
from tests.postgres_server import PostgresServer, used_s

pytestmark = [pytest.mark.bench, pytest.mark.docker]

SESSIONS, RUNS, ROUNDS = 12, 100, 3
COUNTS = (1, 2, 3)


@dataclass
class Measured:
    """Of one set of nodes."""

    runs_s: list[float]
    """Runs a second, of each round."""
    processor_s: list[float]
    """Processor time of a run, by all controllers and the server together, of each round."""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer(options=["shared_buffers=256MB"])
    yield server
    server.close()


def nodes_at_work(server: PostgresServer, folder: Path, count: int) -> Measured:
    """Starts so many nodes and runs cells on them."""
    folder.mkdir()
    nodes = Nodes(folder, server.create(), runtime="docker", CELLYARD_NODE__LEASE="8", **pool_of(0))
    try:
        names = [f"node{number}" for number in range(count)]
        for name in names:
            nodes.start(name)
        pids = [process.pid for name in names if (process := nodes.process(name).process)]
        measured = Measured([], [])

        def used() -> float:
            return server.processor_s() + sum(used_s(pid) for pid in pids)

        for _ in range(ROUNDS):
            before = used()
            speed, times = at_once([nodes.process(name).endpoint for name in names], SESSIONS, RUNS)
            measured.runs_s.append(speed)
            measured.processor_s.append((used() - before) / len(times))
        return measured
    finally:
        nodes.close()


def test_runs_a_second_by_nodes(server: PostgresServer, launch: Launch, folder: Path, rows: list[Row]) -> None:
    alone = launch(**pool_of(0))
    sqlite = [at_once([alone.endpoint], SESSIONS, RUNS)[0] for _ in range(ROUNDS)]
    alone.close()
    seen = {count: nodes_at_work(server, folder / f"{count}", count) for count in COUNTS}
    one = seen[1]
    rows.append(rate(f"runs a second on PostgreSQL, {SESSIONS} sessions", one.runs_s, "/s", "SQLite", sqlite, 0.5))
    for count in COUNTS[1:]:
        more = seen[count]
        rows.append(rate(f"the same on {count} nodes of this machine", more.runs_s, "/s", "1 node", one.runs_s, 0.8))
        work = f"processor time of a run on {count} nodes, server included"
        rows.append(row(work, more.processor_s, "1 node", one.processor_s, 1.25))
