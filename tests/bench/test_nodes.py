"""Hot runs on one, two and three nodes that share one PostgreSQL server, all on this machine.

The nodes, the server, the kernels and the clients share its processors. So the rate says what a further node costs
rather than what it brings; the processor time of a run says what it would bring on a machine of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


def nodes_at_work(server: PostgresServer, folder: Path, count: int, sessions: int = SESSIONS) -> Measured:
    """Starts so many nodes and runs cells on them, in so many sessions together."""
    folder.mkdir()
    nodes = Nodes(folder, server.create(), runtime="docker", CELLYARD_NODE__LEASE="8", **pool_of(0))
    try:
        names = [f"node{number}" for number in range(count)]
        for name in names:
            nodes.start(name)
        pids = [process.pid for name in names if (process := nodes.process(name).process)]
        measured = Measured([], [])

        @contextmanager
        def metered() -> Iterator[None]:
            before = server.processor_s() + sum(map(used_s, pids))
            yield
            used = server.processor_s() + sum(map(used_s, pids)) - before
            measured.processor_s.append(used / (sessions * RUNS))

        for _ in range(ROUNDS):
            speed, _ = at_once([nodes.process(name).endpoint for name in names], sessions, RUNS, metered())
            measured.runs_s.append(speed)
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
    rows.extend(
        rate(f"the same on {count} nodes of this machine", seen[count].runs_s, "/s", "1 node", one.runs_s, 0.8)
        for count in COUNTS[1:]
    )
    # What runs together shares commits, so a node with fewer sessions has more to do for each run.
    most, each = COUNTS[-1], SESSIONS // COUNTS[-1]
    alike = nodes_at_work(server, folder / "alike", 1, each)
    work, ours = f"a run's processor time, {most} nodes of {each} sessions", seen[most].processor_s
    rows.append(row(work, ours, f"1 node of {each}, PostgreSQL included", alike.processor_s, 1.25))
    rows.append(row(work, ours, f"1 node of {SESSIONS}", one.processor_s, 1.25))
