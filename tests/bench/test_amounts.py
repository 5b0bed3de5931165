"""How much: a flood of output, and the memory of what does nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.bench.conftest import Launch, full, pool_of, timed
from tests.bench.report import Row, amount, rate
from tests.controller_process import Process

import cellyard
from cellyard.events import OutputEvent

pytestmark = [pytest.mark.bench, pytest.mark.docker]

MB = 1_000_000
OUTPUT = 100 * MB
SANDBOXES, NOTEBOOKS = 4, 50


def memory(process: Process, field: str = "VmRSS") -> float:
    """Megabytes of a controller: now (VmRSS), or at most since the last reset (VmHWM)."""
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024 / MB


def reset_peak(process: Process) -> None:
    """From now on VmHWM counts anew."""
    assert process.process is not None
    Path(f"/proc/{process.process.pid}/clear_refs").write_text("5")


def test_a_flood_of_output(launch: Launch, rows: list[Row]) -> None:
    process = launch(CELLYARD_LIMITS__OUTPUT_BYTES=str(2 * OUTPUT))
    source = f"import sys\nline = 'x' * 99 + '\\n'\nfor _ in range({OUTPUT // 100}): sys.stdout.write(line)"
    speeds, growths = [], []
    for _ in range(3):
        with cellyard.Session(endpoint=process.endpoint) as session:
            session.run("1+1")
            before = memory(process)
            reset_peak(process)
            received = 0

            def follow(session: cellyard.Session = session) -> None:
                nonlocal received
                for event in session.stream_execute(code=source):
                    if isinstance(event, OutputEvent) and event.output.text:
                        received += len(event.output.text)

            seconds = timed(follow)
            growths.append(memory(process, "VmHWM") - before)
            assert received == OUTPUT
            speeds.append(OUTPUT / MB / seconds)
            session.shutdown_kernel()
    rows.append(rate("100 MB of stdout to the client", speeds, "MB/s", "the target", [25.0], 1.0))
    rows.append(amount("controller's memory meanwhile, above before", growths, "MB", 64))


def test_an_idle_sandbox(launch: Launch, rows: list[Row]) -> None:
    process = launch(**pool_of(SANDBOXES))
    full(process, SANDBOXES)
    ids = subprocess.check_output(["docker", "ps", "-q", "--filter", "label=cellyard.sandbox"], text=True).split()
    used = []
    for container in ids:
        pids = subprocess.check_output(["docker", "top", container, "-eo", "pid"], text=True).split()[1:]
        used.append(sum(proportional(int(pid)) for pid in pids))
    assert len(used) >= SANDBOXES
    rows.append(amount("memory of an idle sandbox", used, "MB", 60))


def proportional(pid: int) -> float:
    """Megabytes of a process, with its part of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / MB


def test_a_notebook_in_memory(controller: Process, rows: list[Row]) -> None:
    """Notebooks with ten cells each that have run, in one kernel's life: what each takes in the controller."""
    growths = []
    for _ in range(3):
        sessions = [cellyard.Session(endpoint=controller.endpoint) for _ in range(NOTEBOOKS)]
        before = memory(controller)
        for session in sessions:
            for number in range(10):
                session.create_cell(f"print({number})")
        growths.append((memory(controller) - before) / NOTEBOOKS)
        for session in sessions:
            session.close()
    rows.append(amount("controller's memory of a notebook in use", growths, "MB", 1))
