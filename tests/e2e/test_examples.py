"""Each example runs as its reader would run it, and says what it says it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller_process import Process
from tests.proven import wait_until_proven

pytestmark = [pytest.mark.docker, pytest.mark.timeout(480)]

EXAMPLES = Path(__file__).parents[2] / "examples"
WITHIN = 200.0


@pytest.fixture(scope="module")
def controller(shared_controller: Process) -> Process:
    """One that has shown what its sandboxes are."""
    wait_until_proven(shared_controller.endpoint)
    return shared_controller


def run(name: str, controller: Process, *arguments: str) -> list[str]:
    """What an example prints, line by line. Those that need a controller find this one."""
    environment = os.environ | {"CELLYARD_ENDPOINT": controller.endpoint}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_an_agents_loop_mends_its_mistake_and_ends(controller: Process) -> None:
    assert run("agent_loop.py", controller) == [
        "step 1: NameError: name 'line_count' is not defined",
        "step 2: value: loom",
        "answer: It is loom.",
    ]


def test_sessions_side_by_side_share_nothing(controller: Process) -> None:
    estimate, *rest = run("parallel_sessions.py", controller, "3")
    assert re.fullmatch(r"pi is about 3\.1[34]\d", estimate)
    assert rest == ["3 sessions ran in 3 sandboxes", "left by others: []"]


def test_two_editors_of_one_notebook_lose_nothing(controller: Process) -> None:
    assert run("live_collaboration.py", controller) == [
        "Grace sees a cell of 70 characters",
        "both have the same source, with both edits",
        "Grace sees the output: 1200",
    ]


def test_a_listed_host_is_reached_and_nothing_else(controller: Process) -> None:
    said = run("egress_allowlist.py", controller)
    assert [line for line in said if line.startswith("http")] == [
        "http://mirror.internal/ -> what the mirror has",
        "http://localhost/ -> 403",
        "http://127.0.0.1/ -> 403",
        "http://elsewhere.example/ -> 403",
    ]
    refusals = [line.strip() for line in said if "refused" in line]
    assert refusals == [
        "(refused: localhost, private_address)",
        "(refused: 127.0.0.1, address)",
        "(refused: elsewhere.example, not_listed)",
    ]


def test_an_image_of_ones_own_is_built_used_and_removed(controller: Process) -> None:
    built, *rest = run("custom_image.py", controller)
    assert built.startswith("built cellyard-custom-example-words")
    assert rest == [
        "the image says 'good morning'; writing to it: Read-only file system",
    ]


def test_no_example_is_left_out() -> None:
    tried = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tried
