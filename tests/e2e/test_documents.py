"""The document through the SDK: edits, order, metadata, nbformat in and out, against a real controller.

No kernel runs, so the controller needs no engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import cellyard
from tests.controller_process import Process

NOTEBOOKS = Path(__file__).parents[3] / "shared" / "notebooks"


@pytest.fixture(scope="module")
def documents(module_folder: Path) -> Iterator[Process]:
    """A controller for all tests of this module."""
    process = Process(module_folder)
    process.start("--runtime", "process")
    yield process
    assert process.stop() == 0


@pytest.fixture
def session(documents: Process) -> Iterator[cellyard.Session]:
    """A session on a notebook of its own."""
    with cellyard.Session(endpoint=documents.endpoint) as session:
        session.connect()
        yield session


def test_edits_of_a_part_of_a_source(session: cellyard.Session) -> None:
    cell = session.create_cell("x = 1 😀")
    session.splice_source(cell, 4, 1, "23")
    session.append_source(cell, "\ny = x")
    assert session.get_cell(cell).source == "x = 23 😀\ny = x"
    version = session.get_cell(cell).version
    session.splice_source(cell, 0, 1, "z", if_version=version)
    with pytest.raises(cellyard.CellChanged):
        session.splice_source(cell, 0, 1, "w", if_version=version)
    for index, count in ((99, 0), (0, 99), (-1, 0)):
        with pytest.raises(cellyard.InvalidRequest):
            session.splice_source(cell, index, count, "")
    with pytest.raises(cellyard.CellNotFound, match="not found"):
        session.append_source("cell-nope", "")


def test_order_type_and_metadata(session: cellyard.Session) -> None:
    a, b, c = (session.create_cell(name) for name in "abc")
    session.move_cell(c)
    session.move_cell(a, after=b)
    session.set_cell_type(b, "markdown")
    session.set_cell_metadata(b, {"tags": ["intro"], "old": 1})
    session.set_cell_metadata(b, {"new": None}, remove=["old"])
    cells = session.get_cells()
    assert [cell.source for cell in cells] == ["c", "b", "a"]
    assert (cells[1].cell_type, cells[1].metadata) == ("markdown", {"tags": ["intro"], "new": None})
    with pytest.raises(cellyard.InvalidRequest, match="JSON"):
        session.set_cell_metadata(b, {"no": object()})


@pytest.mark.parametrize("name", ["Clear Output", "Inline Image", "robust_regression"])
def test_a_notebook_comes_back_as_it_was(session: cellyard.Session, name: str) -> None:
    original = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    count = session.import_notebook(nbformat.writes(original))
    exported = nbformat.reads(session.export_notebook(), as_version=4)
    nbformat.validate(exported)
    assert count == len(original.cells)
    assert exported == original
    with pytest.raises(cellyard.InvalidRequest):
        session.import_notebook(nbformat.writes(original))
    session.clear_outputs()
    assert all(not cell.outputs and cell.execution_count is None for cell in session.get_cells())


def test_the_command_line_exchanges_notebooks(documents: Process, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cellyard.cli", "notebooks", *map(str, arguments)]
        return subprocess.run(
            [*command, "--endpoint", documents.endpoint], capture_output=True, text=True, timeout=60, check=False
        )

    source, out = NOTEBOOKS / "HelloWorld.ipynb", tmp_path / "out.ipynb"
    assert run("import", "mine", source).returncode == 0
    assert "Hello World" in run("show", "mine").stdout
    assert json.loads(run("show", "mine", "--json").stdout)[0]["cell_type"] == "code"
    assert run("export", "mine", out).returncode == 0
    assert nbformat.read(out, as_version=4).cells[0].outputs[0].text == "Hello World\n"
    assert run("delete", "mine").returncode == 0
    missing = run("export", "mine", out)
    assert missing.returncode == 2
    assert "'mine' not found" in missing.stderr
