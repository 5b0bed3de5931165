"""Large outputs of real kernels: whole for whoever reads them, one file on disk, gone with their notebook."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

SIZE = 5 * 1024 * 1024
SHOW = f"""
import base64, random
from IPython.display import display, Image
picture = b'\\x89PNG\\r\\n\\x1a\\n' + random.Random(7).randbytes({SIZE})
display(Image(picture, format='png'))
print('x' * 200_000)
"""


@pytest.fixture
def controller(built_image: str, folder: Path) -> Iterator[Process]:
    """A controller that looks for what is unused all the time."""
    process = Process(folder)
    process.start(env={"CELLYARD_UPKEEP_INTERVAL": "0.2"})
    yield process
    process.close()


def files(controller: Process) -> list[Path]:
    """The files of large parts."""
    return list((controller.data / "blobs").glob("*/*"))


def test_a_picture_of_5_mb_goes_through_everything(controller: Process) -> None:
    with cellyard.Session(notebook_id="pictures", endpoint=controller.endpoint) as session:
        shown: list[cellyard.Output] = []
        result = session.run(SHOW, on_output=shown.append)
        assert result.success, result.text
        picture = session.run("picture[:8] + picture[-8:]").value
        data = result.display_data[0].data["image/png"]
        assert len(data) == SIZE + 8
        assert data[:8] + data[-8:] == picture
        assert result.stdout == "x" * 200_000 + "\n"
        assert [output.data for output in shown if output.data] == [output.data for output in result.display_data]
        assert session.get_cell(result.cell_id).outputs == result.outputs
        assert session.get_execution(result.execution_id).outputs == result.outputs
        first = next(iter(session.watch()))
        assert isinstance(first, cellyard.Snapshot)
        assert first.cells[0].outputs == result.outputs
        exported = nbformat.reads(session.export_notebook(), as_version=4)
        nbformat.validate(exported)
        assert base64.b64decode(exported.cells[0].outputs[0].data["image/png"]) == data
        large = {path: path.stat().st_ino for path in files(controller)}
        again = session.execute_cell(result.cell_id)
        assert again.outputs == result.outputs
        assert {path: path.stat().st_ino for path in files(controller)} == large
    with cellyard.Session(notebook_id="copy", endpoint=controller.endpoint) as session:
        assert session.import_notebook(nbformat.writes(exported)) == 2
        assert session.get_cells()[0].outputs == result.outputs
    with cellyard.Client(controller.endpoint) as client:
        client.delete_notebook("pictures")
        client.delete_notebook("copy")
    until = time.monotonic() + 20
    while files(controller):
        assert time.monotonic() < until, "what nobody uses was to be removed"
        time.sleep(0.05)
