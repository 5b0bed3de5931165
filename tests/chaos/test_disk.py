"""Disks that are full or damaged, below a real controller: what was accepted stays, the rest is refused aloud."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cellyard
from tests.chaos.cells import Running, until
from tests.chaos.small_disk import SmallDisk, small_disk
from tests.controller_process import Process

pytestmark = pytest.mark.docker

WITHIN = 60.0
NO_CONTROLLER = 3
PRINTS = """
import itertools, pathlib, time
for number in itertools.count():
    print(number, 'x' * 1000, flush=True)
    time.sleep(0.01)
    if (pathlib.Path.home() / 'enough').exists():
        break
number + 1
"""


@pytest.fixture
def disk(folder: Path) -> Iterator[SmallDisk]:
    """A disk of 40 MiB."""
    with small_disk(folder, 40) as disk:
        yield disk


@pytest.fixture
def process(built_image: str, folder: Path, disk: SmallDisk) -> Iterator[Process]:
    """A controller on that disk, not started yet."""
    process = Process(folder)
    process.data = disk.path / "data"
    yield process
    process.close()


def refused_at_last(work: Callable[[int], str]) -> tuple[list[str], cellyard.ControllerUnavailable]:
    """Does it until it is refused; returns what it gave until then, and the refusal."""
    accepted: list[str] = []
    for number in range(100_000):
        try:
            accepted.append(work(number))
        except cellyard.ControllerUnavailable as refused:
            return accepted, refused
    raise AssertionError("the disk is never full")


def printed(count: int) -> str:
    """What the cell shows."""
    return "".join(f"{number} {'x' * 1000}\n" for number in range(count))


def test_a_full_disk_refuses_new_work_and_loses_none(process: Process, disk: SmallDisk) -> None:
    process.start("--on-stop", "keep")
    session = cellyard.Session(notebook_id="prints", endpoint=process.endpoint)
    other = cellyard.Session(notebook_id="other", endpoint=process.endpoint)
    edited = other.create_cell("# begins")
    text: list[str] = []
    shown = threading.Condition()

    def show(output: cellyard.Output) -> None:
        with shown:
            text.append(output.text or "")
            shown.notify_all()

    results: list[cellyard.ExecutionResult] = []
    runner = threading.Thread(target=lambda: results.append(session.run(PRINTS, None, on_output=show)), daemon=True)
    runner.start()
    with shown:
        assert shown.wait_for(lambda: text, WITHIN)
    disk.fill()
    accepted, no_cell = refused_at_last(lambda number: other.create_cell(f"# {number}"))
    cells = [cell.id for cell in other.get_cells()]
    for refusal, work in (
        (no_cell, None),
        (None, lambda: other.append_source(edited, "# never")),
        (None, lambda: other.queue_cell(edited)),
        (None, lambda: other.run("1")),
        (None, lambda: other.set_metadata("k", "v")),
    ):
        if work is not None:
            with pytest.raises(cellyard.ControllerUnavailable) as caught:
                work()
            refusal = caught.value
        assert refusal is not None
        assert "full" in str(refusal) or "disk" in str(refusal), refusal
        assert not refusal.retryable
    assert cells == [edited, *accepted], "what was accepted is there, and what was refused is not"
    assert [cell.id for cell in other.get_cells()] == cells
    assert other.get_cell(edited).source == "# begins"
    assert not results

    disk.clear()
    seen = len(text)
    with shown:
        assert shown.wait_for(lambda: len(text) > seen, WITHIN)
    sandbox = next(each for each in process.containers() if each.exec_run("test -e /home/sandbox").exit_code == 0)
    sandbox.exec_run("touch /home/sandbox/enough")
    runner.join(WITHIN)
    (result,) = results
    assert (result.end, result.stdout, "".join(text)) == ("succeeded", printed(result.value), printed(result.value))
    assert other.append_source(edited, "; now") is None
    assert other.run("6 * 7").value == 42

    process.kill()
    process.start()
    assert session.get_execution(result.execution_id).stdout == printed(result.value)
    assert [cell.id for cell in other.get_cells()][: len(cells)] == cells
    assert other.get_cell(edited).source == "# begins; now"
    session.close()
    other.close()


def test_a_sandbox_that_ends_while_the_disk_is_full_ends_its_notebooks_cell_when_there_is_room(
    process: Process, disk: SmallDisk
) -> None:
    process.start()
    told, left = Running(process, "told"), Running(process, "left")
    unseen = Running(process, "unseen")
    disk.fill()
    told.container.kill()
    until(lambda: told.container.id not in [each.id for each in process.containers()])
    process.kill()
    unseen.container.kill()
    disk.fill()
    process.start()  # nothing can be noted, and the others go on all the same
    assert left.session.kernel_started
    disk.clear()
    assert told.end()[0] == "lost"
    assert unseen.end()[0] == "lost"
    assert left.same_kernel()
    until(lambda: [each.id for each in process.containers()] == [left.container.id])


def serve(process: Process) -> tuple[int, str]:
    """Exit code and words of a controller that cannot start."""
    command = [sys.executable, "-m", "cellyard.cli", "serve", "--data", str(process.data), "--listen", process.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def test_a_controller_that_died_on_a_full_disk_has_everything_when_it_is_back(
    process: Process, disk: SmallDisk
) -> None:
    process.start()
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    session.connect()
    disk.fill()
    accepted, _ = refused_at_last(lambda _: session.create_cell("#" * 1000))
    process.kill()
    disk.fill()
    process.start()  # reading needs no room
    assert [cell.id for cell in session.get_cells()] == accepted
    with pytest.raises(cellyard.ControllerUnavailable):
        session.create_cell("#" * 1_000_000)
    process.kill()
    disk.clear()
    process.start()
    assert [cell.id for cell in session.get_cells()] == accepted
    session.close()


def garbage(content: bytes, start: int, end: int) -> bytes:
    return content[:start] + random.Random(1).randbytes(end - start) + content[end:]


@pytest.mark.parametrize(("start", "end"), [(0, 16), (100, 4096), (0, 65536)])
def test_a_damaged_database_is_refused_and_not_touched(folder: Path, start: int, end: int) -> None:
    process = Process(folder)
    process.start("--runtime", "process")
    with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as session:
        session.create_cell("x" * 100_000)
    assert process.stop() == 0
    database = process.data / "cellyard.sqlite"
    database.write_bytes(garbage(database.read_bytes(), start, end))
    before = {path.name: path.read_bytes() for path in process.data.glob("cellyard.sqlite*")}
    code, says = serve(process)
    assert code == NO_CONTROLLER
    assert str(database) in says.replace("\n", "")
    assert {path.name: path.read_bytes() for path in process.data.glob("cellyard.sqlite*")} == before


def test_an_emptied_database_is_not_taken_for_a_new_one(folder: Path) -> None:
    process = Process(folder)
    process.start("--runtime", "process")
    assert process.stop() == 0
    os.truncate(process.data / "cellyard.sqlite", 0)
    code, says = serve(process)
    assert code == NO_CONTROLLER
    assert "empty" in says
    (process.data / "cellyard.sqlite").unlink()
    process.start("--runtime", "process")
    process.close()
