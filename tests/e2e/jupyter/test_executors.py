"""nbclient, nbconvert and papermill run notebooks that nobody here wrote: their saved outputs come out again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.controller_process import Process
from tests.e2e.jupyter.conftest import install
from tests.e2e.test_notebooks import FAILS_ON_PURPOSE, NOTEBOOKS, RUNS_CLEAN, SAME_OUTPUTS, outputs

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def kernel_with_files(service: Process) -> str:
    """A kernelspec whose kernels get the files beside the notebook."""
    folder = service.folder
    install(folder, "--endpoint", service.endpoint, "--kernel", "python", "--name", "with-files", "--files", "beside")
    return "with-files"


def execute(notebook: Path, out: Path, kernel: str, **options: Any) -> None:
    """Runs it with nbclient, in its own folder, and writes it with its outputs."""
    node = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        node, kernel_name=kernel, timeout=120, resources={"metadata": {"path": str(notebook.parent)}}, **options
    )
    client.execute()
    nbformat.validate(node)
    nbformat.write(node, out)


@pytest.mark.parametrize("name", SAME_OUTPUTS)
def test_nbclient_gives_the_saved_outputs_again(kernel_with_files: str, tmp_path: Path, name: str) -> None:
    notebook, out = NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb"
    execute(notebook, out, kernel_with_files, allow_errors=name in FAILS_ON_PURPOSE)
    assert outputs(out) == outputs(notebook)


@pytest.mark.parametrize("name", RUNS_CLEAN)
def test_nbclient_runs_what_computes(service: Process, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.ipynb"
    execute(NOTEBOOKS / f"{name}.ipynb", out, "cellyard-python")
    shown = [output for cell in outputs(out) for output in cell]
    assert not [output for output in shown if output["output_type"] == "error"]
    assert shown


def test_nbclient_stops_at_an_error(service: Process) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in ("1/0", "2")]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        NotebookClient(nbformat.v4.new_notebook(cells=cells), kernel_name="cellyard-python", timeout=60).execute()


def test_nbconvert_executes(service: Process, tmp_path: Path) -> None:
    shutil.copy(NOTEBOOKS / "HelloWorld.ipynb", tmp_path)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "out"]
    command += ["--ExecutePreprocessor.kernel_name=cellyard-python", "HelloWorld.ipynb"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=150)
    assert outputs(tmp_path / "out.ipynb") == outputs(NOTEBOOKS / "HelloWorld.ipynb")


def test_papermill_fills_in_parameters(service: Process, tmp_path: Path) -> None:
    parameters = nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]})
    language = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(
        cells=[parameters, nbformat.v4.new_code_cell("print(a * 7)")], metadata=language
    )
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        {"a": 6},
        kernel_name="cellyard-python",
        progress_bar=False,
    )
    assert [output["text"] for output in outputs(tmp_path / "out.ipynb")[-1]] == ["42\n"]
