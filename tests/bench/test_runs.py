"""Cells in kernels that are there: one after the other, many at once, and in long notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.bench.conftest import Launch, at_once, pool_of, timed
from tests.bench.peers import Peer, running
from tests.bench.report import Row, amount, rate, row, tail
from tests.controller_process import Process

pytestmark = [pytest.mark.bench, pytest.mark.docker]

ROUNDS = 300
LONG = 1_000


@pytest.fixture
def raw_kernel(built_image: str) -> Iterator[Peer]:
    """jupyter_client alone, in a container of the same image."""
    script = (Path(__file__).parent / "peer_jupyter.py").read_text()
    options = ["--network", "none", "--tmpfs", "/home/sandbox:exec,mode=1777", "--memory", "1g", "--cpus", "1"]
    command = ["docker", "run", "--rm", "-i", *options, built_image, "python3", "-c", script]
    with running(command) as peer:
        yield peer


def test_hot_run(controller: Process, raw_kernel: Peer, llm_sandbox: Peer, rows: list[Row]) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        for _ in range(20):
            session.run("1+1")
        mine, theirs = [], []
        for _ in range(ROUNDS):
            mine.append(timed(lambda: session.run("1+1")))
            theirs.append(raw_kernel.ask("hot"))
        other = [llm_sandbox.ask("hot") for _ in range(10)]
    rows.append(row('hot run("1+1")', mine, "jupyter_client, same image", theirs, 1.3))
    rows.append(row("the same", mine, "llm-sandbox", other, 1.0))


def test_many_sessions_at_once(launch: Launch, rows: list[Row]) -> None:
    """Hot runs of 32 sessions at once, each in a thread: their p99 against their p50."""
    _, times = at_once([launch(**pool_of(0)).endpoint], 32, 40)
    rows.append(tail("hot run of 32 sessions at once: p99", times, "their p50", times, 10.0))


def test_runs_a_second(controller: Process, jupyter: Peer, rows: list[Row]) -> None:
    mine, theirs = [], []
    for _ in range(3):
        mine.append(at_once([controller.endpoint], 8, 150)[0])
        theirs.append(jupyter.ask("rate 8"))
    rows.append(rate("runs a second, 8 sessions at once", mine, "/s", "jupyter_client, no isolation", theirs, 0.8))


def test_one_more_cell(controller: Process, rows: list[Row]) -> None:
    """In a notebook of 1,000 cells that have all run, against the first one of a notebook."""
    with (
        cellyard.Session(endpoint=controller.endpoint) as long,
        cellyard.Session(endpoint=controller.endpoint) as fresh,
    ):

        def first() -> float:
            seconds = timed(lambda: fresh.run("1+1"))
            (cell,) = fresh.get_cells()
            fresh.delete_cell(cell.id)
            return seconds

        first()
        for number in range(LONG):
            long.run(f"print({number})\n{number}")
        mine, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(first())
            mine.append(timed(lambda: long.run("1+1")))
        rows.append(row(f"run one more cell than {LONG:,}", mine, "the first cell of a notebook", theirs, 1.5))
        mine, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(timed(lambda: fresh.delete_cell(fresh.create_cell("1+1"))) / 2)
            mine.append(timed(lambda: long.delete_cell(long.create_cell("1+1"))) / 2)
        rows.append(row(f"create or delete one of {LONG:,}", mine, "in an empty notebook", theirs, 1.5))


def test_host_calls(controller: Process, rows: list[Row]) -> None:
    """From the code to an empty function of its client and back, as the code measures it."""
    code = f"""
from time import perf_counter
from cellyard_sandbox import host
def timed():
    began = perf_counter()
    host.empty()
    return (perf_counter() - began) * 1e3
[timed() for _ in range({ROUNDS})]
"""
    with cellyard.Session(endpoint=controller.endpoint) as session:
        session.run(code, host_calls={"empty": lambda: None})
        taken = session.run(code, host_calls={"empty": lambda: None}).value
    rows.append(amount("a call from code to an empty function of its client", taken, "ms", 3.0))
