"""The engine hangs, is gone, is restarted: kernels that run do not need it, and what is lost is told."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cellyard
from tests.chaos.cells import Running, until
from tests.chaos.engine_proxy import EngineProxy
from tests.chaos.own_engine import OwnEngine
from tests.controller_process import Process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # an image is copied, an engine started several times

RUNS = 20
BOUND = 2.0
"""Seconds that half of the runs take at most; the shortest patience with an engine is 5."""


@pytest.fixture
def proxy(process: Process, folder: Path) -> Iterator[EngineProxy]:
    """Stands between the controller and the machine's engine."""
    with EngineProxy(folder / "e.sock").running() as proxy:
        yield proxy
        proxy.resume()
        process.close()


def runs_on(session: cellyard.Session) -> None:
    """Small cells go on, as fast as ever."""
    took = []
    for number in range(RUNS):
        began = time.monotonic()
        assert session.run(f"{number} + 1").value == number + 1
        took.append(time.monotonic() - began)
    print(f"a run: {statistics.median(took) * 1000:.0f} ms, at most {max(took) * 1000:.0f} ms")
    assert statistics.median(took) < BOUND


def test_an_engine_that_hangs_stops_no_kernel_and_what_it_did_late_is_tidied(
    process: Process, proxy: EngineProxy
) -> None:
    process.start(env={"DOCKER_HOST": proxy.address})
    session = cellyard.Session(notebook_id="runs", endpoint=process.endpoint)
    runs_on(session)
    dies = Running(process, "dies")
    proxy.hang()
    with (
        cellyard.Session(notebook_id="new", endpoint=process.endpoint, start_timeout=5.0) as new,
        pytest.raises(cellyard.ExecutionTimeout, match="start_timeout"),
    ):
        new.run("1")
    runs_on(session)
    dies.container.kill()
    runs_on(session)

    proxy.resume()
    end, why = dies.end()
    assert end == "lost"
    assert "exit code 137" in why or "does not answer" in why, why  # whichever came first
    with cellyard.Session(notebook_id="later", endpoint=process.endpoint) as later:
        assert later.run("6 * 7").value == 42
        expected = {"runs", "later"}
        until(lambda: len(process.containers()) == len(expected))
    runs_on(session)


def test_an_engine_that_is_gone_stops_no_kernel_and_refuses_new_ones_with_the_reason(
    process: Process, proxy: EngineProxy
) -> None:
    process.start(env={"DOCKER_HOST": proxy.address})
    session = cellyard.Session(notebook_id="runs", endpoint=process.endpoint)
    runs_on(session)
    proxy.go()
    with (
        cellyard.Session(notebook_id="new", endpoint=process.endpoint) as new,
        pytest.raises(cellyard.CapabilityUnavailable, match="engine"),
    ):
        new.start_kernel()
    runs_on(session)
    proxy.come()
    with cellyard.Session(notebook_id="new", endpoint=process.endpoint) as new:
        assert new.run("6 * 7").value == 42
    runs_on(session)


def test_a_controller_that_starts_while_the_engine_is_gone_goes_on_with_its_kernels_once_it_is_back(
    process: Process, proxy: EngineProxy
) -> None:
    process.start(env={"DOCKER_HOST": proxy.address})
    kept, dies = Running(process, "kept"), Running(process, "dies")
    process.kill()
    proxy.go()
    dies.container.remove(force=True)
    process.start(env={"DOCKER_HOST": proxy.address})
    proxy.come()
    end, _ = dies.end()
    assert end == "lost"
    assert kept.same_kernel()
    until(lambda: [each.id for each in process.containers()] == [kept.container.id])


@pytest.fixture(scope="module")
def own_engine(built_image: str, module_folder: Path) -> Iterator[OwnEngine]:
    """An engine that a test may restart; it has the image."""
    engine = OwnEngine(module_folder)
    try:
        engine.start(live_restore=False)
        engine.load(built_image)
        engine.stop()
        yield engine
    finally:
        engine.close()


@pytest.fixture
def restarted(own_engine: OwnEngine, folder: Path) -> Iterator[Process]:
    """A controller on that engine; neither is started yet."""
    process = Process(folder, own_engine.address)
    yield process
    process.close()
    own_engine.stop()


def test_an_engine_that_takes_its_containers_along_ends_their_kernels_and_new_ones_start(
    restarted: Process, own_engine: OwnEngine
) -> None:
    own_engine.start(live_restore=False)
    restarted.start()
    running = Running(restarted, "nb")
    own_engine.stop()
    own_engine.start(live_restore=False)
    end, why = running.end()
    assert end == "lost"
    assert "exit code" in why or "does not answer" in why, why  # the engine is asked as soon as it answers
    assert running.session.run("6 * 7").value == 42
    until(lambda: len(restarted.containers()) == 1)


@pytest.mark.parametrize("end", [OwnEngine.stop, OwnEngine.kill])
def test_an_engine_that_is_restarted_and_restores_its_containers_costs_no_kernel(
    restarted: Process, own_engine: OwnEngine, end: Callable[[OwnEngine], None]
) -> None:
    own_engine.start(live_restore=True)
    restarted.start()
    kept, dies = Running(restarted, "kept"), Running(restarted, "dies")
    end(own_engine)
    assert kept.session.kernel_started
    own_engine.start(live_restore=True)
    dies.container.kill()  # and the new engine's events are heard
    assert dies.end()[0] == "lost"
    assert kept.same_kernel()
    until(lambda: [each.id for each in restarted.containers()] == [kept.container.id])
    assert dies.session.run("6 * 7").value == 42


def test_an_engine_that_is_killed_and_does_not_restore_its_containers_ends_their_kernels(
    restarted: Process, own_engine: OwnEngine
) -> None:
    """The containers outlive it; it ends them when it is there again."""
    own_engine.start(live_restore=False)
    restarted.start()
    running = Running(restarted, "nb")
    own_engine.kill()
    assert running.session.kernel_started
    own_engine.start(live_restore=False)
    end, why = running.end()
    assert end == "lost"
    assert "exit code" in why or "does not answer" in why or "is gone" in why, why  # whichever was seen first
    assert running.session.run("6 * 7").value == 42
    until(lambda: len(restarted.containers()) == 1)
    assert running.container.id not in {each.id for each in restarted.containers()}
