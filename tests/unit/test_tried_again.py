"""What a test finds when it is run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.fixture(scope="session")
def shared():
    made = []
    yield made
    print("ended", made)

@pytest.fixture(scope="module")
def notebooks(shared):
    made = []
    yield made
    print("closed", made)

TRIES = []

def test_before(shared, notebooks):
    notebooks.append("before")

def test_once_more(shared, notebooks):
    TRIES.append((list(shared), list(notebooks)))
    shared.append(1)
    notebooks.append("again")
    assert len(TRIES) > 1, "the first time"
    assert TRIES == [([], ["before"]), ([], [])]

def test_after(shared, notebooks):
    assert (shared, notebooks) == ([1], ["again"])
"""


def run(folder: Path, tests: str) -> str:
    (folder / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "tests.tried_again", "--reruns", "1", "-s", "-r", "fER"]
    command += ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def test_what_tests_share_is_made_anew(tmp_path: Path) -> None:
    printed = run(tmp_path, TESTS)
    assert "3 passed, 1 rerun" in printed, printed
    assert printed.index("closed ['before', 'again']") < printed.index("ended [1]")
    assert printed.count("closed") == printed.count("ended") == 2


def test_what_fails_twice_fails(tmp_path: Path) -> None:
    printed = run(tmp_path, "def test_it():\n    assert False, 'always'")
    assert "1 failed, 1 rerun" in printed, printed
