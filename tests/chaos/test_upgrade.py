"""An upgrade under load: one controller after the other on a data folder, while sessions run cells all the time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

SESSIONS = 3
UPGRADES = 3
RUNS_BETWEEN = 4


class Worker:
    """A session that counts in its kernel, and goes on until it is told to stop."""

    def __init__(self, endpoint: str) -> None:
        self.done = 0
        self.failed: BaseException | None = None
        self.pids: set[int] = set()
        self.values: list[int] = []
        self._endpoint = endpoint
        self._changed = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def until(self, runs: int) -> None:
        """Returns once so many cells have run."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.done >= runs or self.failed is not None, 120)
        if self.failed is not None:
            raise self.failed

    def stop(self) -> None:
        self._stop = True
        self._thread.join()

    def _work(self) -> None:
        try:
            with cellyard.Session(endpoint=self._endpoint) as session:
                session.run("count = 0")
                while not self._stop:
                    result = session.run("import os, time\ntime.sleep(0.05)\ncount += 1\ncount, os.getpid()")
                    assert result.success, result
                    count, pid = result.value
                    with self._changed:
                        self.values.append(count)
                        self.pids.add(pid)
                        self.done += 1
                        self._changed.notify_all()
        except BaseException as error:  # told by the test's own thread
            with self._changed:
                self.failed = error
                self._changed.notify_all()


def test_controllers_are_replaced_under_load_and_nobody_notices(built_image: str, folder: Path) -> None:
    process = Process(folder)
    process.start("--on-stop", "keep", "--pool", "1")
    workers = [Worker(process.endpoint) for _ in range(SESSIONS)]
    try:
        for upgrade in range(1, UPGRADES + 1):
            for worker in workers:
                worker.until(upgrade * RUNS_BETWEEN)
            assert process.stop() == 0
            process.start("--on-stop", "keep", "--pool", "1")
        for worker in workers:
            worker.until((UPGRADES + 1) * RUNS_BETWEEN)
    finally:
        for worker in workers:
            worker.stop()
        process.close()
    for worker in workers:
        assert worker.failed is None
        assert worker.values == list(range(1, worker.done + 1)), "each cell ran once, in one kernel"
        assert len(worker.pids) == 1
