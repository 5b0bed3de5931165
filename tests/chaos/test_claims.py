"""A controller that dies while it gives a sandbox away: the agent knows whose it is, the store does not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import cellyard
from tests.chaos.cells import WITHIN, until
from tests.controller_process import Process

pytestmark = pytest.mark.docker

DIES_BEFORE_THE_COMMIT = """
import os, signal
from cellyard_controller.sandboxes import records
records.set_claimed = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""
"""Imported by a Python process before anything else."""


def test_a_sandbox_whose_claim_was_not_committed_is_given_to_nobody(process: Process, folder: Path) -> None:
    patch = folder / "sitecustomize.py"
    patch.write_text(DIES_BEFORE_THE_COMMIT)
    process.start("--pool", "2", env={"PYTHONPATH": str(folder)})
    client = cellyard.Client(process.endpoint)
    until(lambda: sum(each.state == "warm" for each in client.list_sandboxes()) == 2)
    before = {each.id for each in process.containers()}
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint, env={"WHOSE": "mine"})
    execution_id = session.queue_cell(session.create_cell("import os\nos.environ['WHOSE']"))
    assert process.process is not None
    assert process.process.wait(WITHIN) == -signal.SIGKILL

    process.start("--pool", "1")
    assert session.wait(execution_id, WITHIN).value == "mine"
    until(lambda: len(before & {each.id for each in process.containers()}) == 1)
    assert "a controller died while it gave it away" in process.log.read_text()
    until(lambda: sum(each.state == "warm" for each in client.list_sandboxes()) == 1)
