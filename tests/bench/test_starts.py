"""From nothing to a first result: cold, from the pool, and many at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.bench.conftest import Launch, full, pool_of, timed
from tests.bench.peers import Peer
from tests.bench.report import Row, row, tail
from tests.controller_process import Process

import cellyard

pytestmark = [pytest.mark.bench, pytest.mark.docker]

ROUNDS = 30
FEW = 5
RUN = "docker run python3 -c pass"


def from_new(process: Process, source: str = "1+1") -> float:
    """Seconds of a new session to its first result; its kernel is gone afterwards."""
    session = cellyard.Session(endpoint=process.endpoint)
    seconds = timed(lambda: session.run(source))
    session.shutdown_kernel()
    session.close()
    return seconds


def test_cold_start(controller: Process, bare: Callable[[], float], rows: list[Row]) -> None:
    from_new(controller), bare()
    mine, theirs = zip(*[(from_new(controller), bare()) for _ in range(ROUNDS)], strict=True)
    rows.append(row("cold session to first result", mine, RUN, theirs, 2.0))


def test_warm_start(launch: Launch, bare: Callable[[], float], rows: list[Row]) -> None:
    """Each session finds a warm sandbox; the pool is full again before the next one."""
    process = launch(**pool_of(2))
    mine, theirs = [], []
    for number in range(ROUNDS + 1):
        full(process, 2)
        seconds = from_new(process)
        full(process, 2)
        if number:  # the first connection loads what later ones find
            mine.append(seconds)
            theirs.append(bare())
    (pool,) = cellyard.Client(process.endpoint).list_pools()
    assert pool.misses == 0
    rows.append(row("new session, warm pool, to first result", mine, RUN, theirs, 0.10))
    rows.append(tail("the same, p99", mine, RUN, theirs, 0.5))


def test_against_peers(launch: Launch, jupyter: Peer, llm_sandbox: Peer, rows: list[Row]) -> None:
    process = launch(**pool_of(2))
    mine, raw, other = [], [], []
    for _ in range(FEW * 2):
        full(process, 2)
        mine.append(from_new(process, "print(1)"))
        full(process, 2)
        raw.append(jupyter.ask("start"))
        other.append(llm_sandbox.ask("start"))
    rows.append(row("new session, warm pool, to first print", mine, "jupyter_client, no isolation", raw, 1.0))
    rows.append(row("the same", mine, "llm-sandbox", other, 1.0))


def test_twenty_at_once(launch: Launch, jupyter: Peer, llm_sandbox: Peer, rows: list[Row]) -> None:
    """Twenty sessions created, run and closed at once, with four warm sandboxes."""
    process = launch(**pool_of(4))

    def ours() -> float:
        full(process, 4)
        with ThreadPoolExecutor(20) as threads:
            return timed(lambda: list(threads.map(lambda _: from_new(process), range(20))))

    mine, raw = zip(*[(ours(), jupyter.ask("many 20")) for _ in range(FEW)], strict=True)
    other = [llm_sandbox.ask("many 20")]
    rows.append(row("20 at once created, run, closed; pool of 4", mine, "jupyter_client, no isolation", raw, 0.5))
    rows.append(row("the same", mine, "llm-sandbox", other, 0.5))


def test_a_hundred_at_once(launch: Launch, rows: list[Row]) -> None:
    """A hundred sessions at once find a hundred warm sandboxes."""
    process = launch(**pool_of(100))
    full(process, 100)
    one = []
    for _ in range(FEW * 2):
        one.append(from_new(process))
        full(process, 100)
    sessions = [cellyard.Session(endpoint=process.endpoint) for _ in range(100)]
    with ThreadPoolExecutor(100) as threads:

        def all_of_them() -> None:
            list(threads.map(lambda session: session.run("1+1"), sessions))

        seconds = timed(all_of_them)
        list(threads.map(lambda session: session.shutdown_kernel(), sessions))
        list(threads.map(lambda session: session.close(), sessions))
    rows.append(row("100 sessions at once, pool of 100: the last", [seconds], "one warm session", one, 10.0))
