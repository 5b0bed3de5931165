"""What the benchmarks share: rows, controllers, and what ours is compared with.

Ours against what it is built on, in turn, in one run: ratios, because machines differ. A row that misses its target is
printed as such and fails nothing: the numbers are for reading, the tests are elsewhere.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from pathlib import Path

import pytest

import cellyard
from tests.bench.peers import Peer, installed
from tests.bench.report import Row, publish
from tests.controller_process import Process

Launch = Callable[..., Process]


@pytest.fixture(scope="session")
def rows() -> Iterator[list[Row]]:
    """Rows of all measurements; published at the end."""
    collected: list[Row] = []
    yield collected
    print(f"written to {publish(collected)}")


@pytest.fixture
def launch(built_image: str, folder: Path) -> Iterator[Launch]:
    """Starts a controller with these environment variables; its commits are durable, as they are by default."""
    running: list[Process] = []

    def start(**env: str) -> Process:
        process = Process(folder)
        process.start(env=env)
        running.append(process)
        with cellyard.Session(endpoint=process.endpoint) as session:
            session.capabilities()  # the canary is no part of a start: it runs once a controller
        return process

    yield start
    for process in running:
        process.close()


@pytest.fixture
def controller(launch: Launch) -> Process:
    """A controller without a pool."""
    return launch()


@pytest.fixture
def bare(built_image: str) -> Callable[[], float]:
    """Seconds of `docker run python3 -c pass`."""
    command = ["docker", "run", "--rm", "--network", "none", built_image, "python3", "-c", "pass"]
    return lambda: timed(lambda: subprocess.run(command, check=True))


@pytest.fixture
def jupyter() -> Iterator[Peer]:
    """jupyter_client alone, on this machine."""
    with installed("jupyter", ["jupyter_client", "ipykernel"]) as peer:
        yield peer


@pytest.fixture
def llm_sandbox(built_image: str) -> Iterator[Peer]:
    """llm-sandbox with our image."""
    with installed("llm_sandbox", ["llm-sandbox[docker]"], built_image) as peer:
        yield peer


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def at_once(
    endpoints: Sequence[str], count: int, runs: int, meter: AbstractContextManager[object] | None = None
) -> tuple[float, list[float]]:
    """Runs a second of sessions at once, each of which asks one of the endpoints, and the seconds of each run.

    `meter` is entered while they run, and not while kernels start and end.
    """
    sessions = [
        cellyard.Session(endpoint=endpoint) for _, endpoint in zip(range(count), cycle(endpoints), strict=False)
    ]

    def hot(session: cellyard.Session) -> list[float]:
        return [timed(lambda: session.run("1+1")) for _ in range(runs)]

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda session: session.run("1+1"), sessions))
        with meter or nullcontext():
            began = time.perf_counter()
            times = [seconds for found in threads.map(hot, sessions) for seconds in found]
            took = time.perf_counter() - began
        list(threads.map(lambda session: session.shutdown_kernel(), sessions))
    for session in sessions:
        session.close()
    return len(times) / took, times


def full(process: Process, count: int) -> None:
    """Returns once the pool has so many warm sandboxes and nothing else is going on."""
    known: dict[str, str] = {}
    client = cellyard.Client(process.endpoint)
    try:
        for sandbox in client.watch_sandboxes():
            known[sandbox.sandbox_id] = sandbox.state
            if [state for state in known.values() if state != "ended"] == ["warm"] * count:
                return
    finally:
        client.close()


def pool_of(count: int) -> dict[str, str]:
    """Variables of a controller whose pool has so many sandboxes, however large the machine is."""
    sizes = {"POOL__SIZE": count, "POOL__MAX": count, "CAPACITY__MEMORY": 1 << 40, "CAPACITY__CPUS": 1000}
    return {f"CELLYARD_{name}": str(size) for name, size in sizes.items()}
