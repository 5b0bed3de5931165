"""The machine's clock is set while no controller is there: what was stored with the old time is due as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

import cellyard
from tests.chaos.cells import WITHIN, Running, until
from tests.controller_process import Process

pytestmark = pytest.mark.docker

DAY = 86_400.0
SHIFTED = """
import time
_real = time.time
time.time = lambda: _real() + {by}
"""
"""Imported by a Python process before anything else."""


def restart_with_the_clock_set(process: Process, folder: Path, by: float) -> None:
    process.kill()
    (folder / "sitecustomize.py").write_text(SHIFTED.format(by=by))
    process.start(env={"PYTHONPATH": str(folder)})


def test_set_forward_it_ends_no_kernel_and_nothing_that_waits(process: Process, folder: Path) -> None:
    process.start()
    running = Running(process, "runs")
    other = cellyard.Session(notebook_id="runs", endpoint=process.endpoint)
    waiting = other.queue_cell(other.create_cell("6 * 7"))
    restart_with_the_clock_set(process, folder, 2 * DAY)
    assert running.same_kernel(), "its life is not over"
    assert other.wait(waiting, WITHIN).value == 42, "it has not waited for too long"


def test_set_back_it_lets_no_kernel_live_longer(process: Process, folder: Path) -> None:
    process.start()
    session = cellyard.Session(notebook_id="short", endpoint=process.endpoint, ttl=5.0)
    session.run("1")
    restart_with_the_clock_set(process, folder, -2 * DAY)
    until(lambda: not session.kernel_started)
    (warning,) = [each for each in session.stream_execute(code="1") if isinstance(each, cellyard.Warned)]
    assert (warning.kind, "ttl" in warning.message) == ("new_kernel", True), warning
