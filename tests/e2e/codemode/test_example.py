"""The example runs as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller_process import Process

pytestmark = pytest.mark.docker

EXAMPLE = Path(__file__).parents[3] / "examples" / "code_mode" / "answer.py"


def test_a_sandbox_without_a_network_answers_and_a_second_session_reuses_how(controller: Process) -> None:
    environment = os.environ | {"CELLYARD_ENDPOINT": controller.endpoint}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    said = {line[:12].strip(): line[13:] for line in done.stdout.splitlines()}
    assert said["look around"] == "[('curl', 'Make HTTP requests')]"
    assert said["try without"].startswith("URLError")
    assert said["answer"] == "anvil"
    assert said["find"] == "['most_stars']"
    assert said["reuse"] == "anvil"
    assert done.stdout.count("(here: curl.get") == 1
