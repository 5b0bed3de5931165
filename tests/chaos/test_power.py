"""What was accepted is on disk: shown by what the disk has at that moment, without what is in memory alone."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import cellyard
from tests.chaos.small_disk import SmallDisk, small_disk
from tests.controller_process import Process

ROUNDS = 3


@pytest.fixture
def disk(folder: Path) -> Iterator[SmallDisk]:
    """A disk whose content at some moment can be had."""
    with small_disk(folder, 64) as disk:
        yield disk


def cells_and_executions(session: cellyard.Session) -> tuple[list[tuple[str, str]], set[str]]:
    """All that the notebook has."""
    session.connect()
    cells = [(cell.id, cell.source) for cell in session.get_cells()]
    return cells, {execution.execution_id for execution in session.list_executions()}


def test_what_was_accepted_survives_the_loss_of_power(folder: Path, disk: SmallDisk) -> None:
    process = Process(folder)
    process.data = disk.path / "data"
    process.start("--runtime", "process")
    assert process.process is not None
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    cells: list[tuple[str, str]] = []
    executions: set[str] = set()
    with ExitStack() as stack:
        stack.callback(process.close)
        stack.callback(session.close)
        stack.callback(process.process.send_signal, signal.SIGCONT)
        telling = 0
        for number in range(ROUNDS):
            for _ in range(random.randint(1, 5)):
                source = f"print({len(cells)})"
                cells.append((session.create_cell(source), source))
                executions.add(session.queue_cell(cells[-1][0]))
            process.process.send_signal(signal.SIGSTOP)
            # It has stopped once no thread of it is in the kernel: a sync on its way takes all that was written.
            os.waitid(os.P_PID, process.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            unsynced = disk.path / f"unsynced-{number}"
            unsynced.write_bytes(bytes(100_000))

            after = folder / f"after-{number}"
            after.mkdir()
            with disk.after_loss_of_power(after) as left:
                # Somebody's sync of the whole machine may come between; then this round shows nothing.
                telling += not (left.path / unsynced.name).exists()
                heir = Process(after)
                heir.data = left.path / "data"
                heir.start("--runtime", "process")
                with cellyard.Session(notebook_id="nb", endpoint=heir.endpoint) as reader:
                    assert cells_and_executions(reader) == (cells, executions)
                heir.close()
            process.process.send_signal(signal.SIGCONT)
        assert cells_and_executions(session) == (cells, executions)
        assert telling
