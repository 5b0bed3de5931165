"""Notebooks that nobody here wrote, run by `cellyard run`: a correct run gives the saved outputs again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest

from tests.controller_process import Process

pytestmark = pytest.mark.docker

NOTEBOOKS = Path(__file__).parents[3] / "shared" / "notebooks"
SAME_OUTPUTS = [
    "HelloWorld",
    "Factorials",
    "Inline Image",
    "SVG",
    "UnicodePy3",
    "Skip Exceptions",
    "Clear Output",
    "Empty Cell",
]
RUNS_CLEAN = ["GameOfLifeStrides", "CoupledSpringMassSystem", "robust_regression"]
FAILS_ON_PURPOSE = {"Skip Exceptions"}


def run(process: Process, notebook: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cellyard.cli", "run", str(notebook), "--out", str(out), *flags]
    return subprocess.run(
        [*command, "--endpoint", process.endpoint], capture_output=True, text=True, timeout=300, check=False
    )


def outputs(path: Path) -> list[list[dict[str, Any]]]:
    """The outputs of every code cell, without what may differ between two correct runs."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return [[normal(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def normal(output: Any) -> dict[str, Any]:
    """An output without addresses, traceback wording and image metadata."""
    plain: dict[str, Any] = json.loads(json.dumps(output))
    plain.pop("execution_count", None)
    plain.pop("traceback", None)
    data = plain.get("data", {})
    if any(mime.startswith("image/") for mime in data):
        plain["metadata"] = {}
    for mime, value in data.items():
        text = "".join(value) if isinstance(value, list) else value
        if isinstance(text, str):
            text = re.sub(r"0x[0-9a-f]+", "0xADDRESS", text)
            if mime == "image/svg+xml":  # the order of attributes is Python's: until 3.7 sorted, now as written
                text = ElementTree.canonicalize(text)
            data[mime] = re.sub(r"\s", "", text) if mime == "image/png" else text
    if plain["output_type"] == "stream":
        plain["text"] = re.sub(r"0x[0-9a-f]+", "0xADDRESS", "".join(plain["text"]))
    return plain


@pytest.mark.parametrize("name", SAME_OUTPUTS)
def test_a_run_gives_the_saved_outputs_again(shared_controller: Process, tmp_path: Path, name: str) -> None:
    source, out = NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb"
    flags = ["--allow-errors"] if name in FAILS_ON_PURPOSE else []
    done = run(shared_controller, source, out, *flags)
    assert done.returncode == 0, done.stderr
    assert outputs(out) == outputs(source)


@pytest.mark.parametrize("name", RUNS_CLEAN)
def test_a_scientific_notebook_runs_without_an_error(shared_controller: Process, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.ipynb"
    done = run(shared_controller, NOTEBOOKS / f"{name}.ipynb", out)
    assert done.returncode == 0, done.stderr
    executed = outputs(out)
    assert any(output for cell in executed for output in cell)
    assert not [output for cell in executed for output in cell if output["output_type"] == "error"]


def test_a_failing_cell_ends_the_run_and_what_ran_is_written(shared_controller: Process, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    done = run(shared_controller, NOTEBOOKS / "Skip Exceptions.ipynb", out)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    first, second = outputs(out)
    assert first[0]["ename"] == "Exception"
    assert second == []


def test_a_run_leaves_no_container_and_no_notebook(controller: Process, tmp_path: Path) -> None:
    done = run(controller, NOTEBOOKS / "HelloWorld.ipynb", tmp_path / "out.ipynb", "--require", "container_isolation")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Hello World\n"
    listed = subprocess.run(
        [sys.executable, "-m", "cellyard.cli", "notebooks", "list", "--json", "--endpoint", controller.endpoint],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(listed.stdout) == []
    assert controller.stop() == 0
    assert controller.containers() == []
