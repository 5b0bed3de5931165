"""Decisions over many nodes, in simulation; `python -m tests.simulation` and `make soak` run the full size."""

from __future__ import annotations

import pytest

from tests.bench.report import Row, amount, rate
from tests.simulation.__main__ import show
from tests.simulation.load import Size
from tests.simulation.run import Simulation

pytestmark = pytest.mark.bench

SIZE = Size(nodes=300, notebooks=30_000)
LIMIT_MS = 5.0


def test_decisions_over_many_nodes(rows: list[Row]) -> None:
    seen = Simulation(SIZE).run()
    show(seen)
    figures = seen.table()
    rows.append(amount("placing a notebook, p99", [figures["placement p99 us"] / 1e3], "ms", LIMIT_MS))
    rows.append(amount("one node's plan, p99", [figures["plan p99 us"] / 1e3], "ms", LIMIT_MS))
    hits = figures["warm hits before the crowd %"]
    rows.append(rate("claims that find a warm sandbox", [hits], "%", "the target", [90.0], 1.0))
    rows.append(amount("most beyond a quota of all nodes", [figures["most beyond a quota %"]], "%", figures["bound %"]))
