"""`make bench`: ours against what it is built on, in turn, in one run. Ratios, because machines differ.

A row that misses its target is printed as such and fails nothing: the numbers are for reading, the tests are elsewhere.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cellyard
from tests.bench.report import Row, publish, row
from tests.controller_process import Process

pytestmark = [pytest.mark.bench, pytest.mark.docker]

ROUNDS = 30
HOT_ROUNDS = 300
LONG = 1_000


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """Rows of all measurements of this module; published at the end."""
    collected: list[Row] = []
    yield collected
    print(f"written to {publish(collected)}")


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path) -> Iterator[Process]:
    """A controller with durable commits, as it is by default."""
    process = Process(module_folder)
    process.start()
    with cellyard.Session(endpoint=process.endpoint) as session:
        session.capabilities()  # the canary is no part of a cold start: it runs once a controller
    yield process
    process.close()


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_cold_start(controller: Process, built_image: str, rows: list[Row]) -> None:
    command = ["docker", "run", "--rm", "--network", "none", built_image, "python3", "-c", "pass"]

    def bare() -> None:
        subprocess.run(command, check=True)

    def ours() -> float:
        session = cellyard.Session(endpoint=controller.endpoint)
        seconds = timed(lambda: session.run("1+1"))
        session.shutdown_kernel()
        session.close()
        return seconds

    ours(), bare()
    mine, theirs = [], []
    for _ in range(ROUNDS):
        mine.append(ours())
        theirs.append(timed(bare))
    rows.append(row("cold session to first result", mine, "docker run python3 -c pass", theirs, 2.0))


@pytest.fixture
def raw_kernel(built_image: str) -> Iterator[Callable[[], float]]:
    """One `1+1` through jupyter_client alone, in a container of the same image; returns its seconds."""
    script = (Path(__file__).parent / "raw_kernel.py").read_text()
    options = ["--network", "none", "--tmpfs", "/home/sandbox:exec,mode=1777", "--memory", "1g", "--cpus", "1"]
    command = ["docker", "run", "--rm", "-i", *options, built_image, "python3", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        ask, answer = process.stdin, process.stdout
        assert ask is not None
        assert answer is not None
        assert answer.readline() == "ready\n"

        def run() -> float:
            ask.write("\n")
            ask.flush()
            return float(answer.readline())

        yield run


def test_warm_start(built_image: str, module_folder: Path, rows: list[Row]) -> None:
    """Each session finds a warm sandbox; the pool is full again before the next one."""
    command = ["docker", "run", "--rm", "--network", "none", built_image, "python3", "-c", "pass"]
    process = Process(short(module_folder / "warm"))
    process.start(env={"CELLYARD_POOL__SIZE": "2", "CELLYARD_POOL__MAX": "2"})
    try:
        mine, theirs = [], []
        for number in range(ROUNDS + 1):
            full(process)
            session = cellyard.Session(endpoint=process.endpoint)
            seconds = timed(lambda session=session: session.run("1+1"))
            session.shutdown_kernel()
            session.close()
            full(process)
            took = timed(lambda: subprocess.run(command, check=True))
            if number:  # the first connection loads what later ones find
                mine.append(seconds)
                theirs.append(took)
        (pool,) = cellyard.Client(process.endpoint).list_pools()
        assert pool.misses == 0
    finally:
        process.close()
    rows.append(row("new session, warm pool, to first result", mine, "docker run python3 -c pass", theirs, 0.10))


def short(folder: Path) -> Path:
    """A folder of its own within another one."""
    folder.mkdir()
    return folder


def full(process: Process) -> None:
    """Returns once the pool has two warm sandboxes and nothing else is going on."""
    known: dict[str, str] = {}
    client = cellyard.Client(process.endpoint)
    try:
        for sandbox in client.watch_sandboxes():
            known[sandbox.sandbox_id] = sandbox.state
            if sorted(state for state in known.values() if state != "ended") == ["warm", "warm"]:
                return
    finally:
        client.close()


def test_many_sessions_at_once(controller: Process, rows: list[Row]) -> None:
    """Hot runs of 32 sessions at once, each in a thread: their p99 against their p50; and what 8 do in a second."""
    for count, runs in ((32, 40), (8, 150)):
        sessions = [cellyard.Session(endpoint=controller.endpoint) for _ in range(count)]
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda session: session.run("1+1"), sessions))

            def hot(session: cellyard.Session, runs: int = runs) -> list[float]:
                return [timed(lambda: session.run("1+1")) for _ in range(runs)]

            began = time.perf_counter()
            times = [seconds for found in threads.map(hot, sessions) for seconds in found]
            took = time.perf_counter() - began
            list(threads.map(lambda session: session.shutdown_kernel(), sessions))
        for session in sessions:
            session.close()
        if count == 32:
            p99 = sorted(times)[int(len(times) * 0.99)]
            rows.append(row("hot run of 32 sessions at once: p99", [p99], "their p50", times, 10.0))
        else:
            print(f"runs a second, {count} sessions: {len(times) / took:.0f}")


def test_hot_run(controller: Process, raw_kernel: Callable[[], float], rows: list[Row]) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        for _ in range(20):
            session.run("1+1")
        mine, theirs = [], []
        for _ in range(HOT_ROUNDS):
            mine.append(timed(lambda: session.run("1+1")))
            theirs.append(raw_kernel())
    rows.append(row('hot run("1+1")', mine, "jupyter_client, same image", theirs, 1.3))


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
        for _ in range(HOT_ROUNDS):
            theirs.append(first())
            mine.append(timed(lambda: long.run("1+1")))
        rows.append(row(f"run one more cell than {LONG:,}", mine, "the first cell of a notebook", theirs, 1.5))
        mine, theirs = [], []
        for _ in range(HOT_ROUNDS):
            theirs.append(timed(lambda: fresh.delete_cell(fresh.create_cell("1+1"))) / 2)
            mine.append(timed(lambda: long.delete_cell(long.create_cell("1+1"))) / 2)
        rows.append(row(f"create or delete one of {LONG:,}", mine, "in an empty notebook", theirs, 1.5))
