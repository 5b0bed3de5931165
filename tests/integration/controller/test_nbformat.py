"""Any valid notebook goes through a whole controller without loss."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from tests.notebook_files import normal, notebooks

from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Yard

SHARED = sorted((Path(__file__).parents[4] / "shared" / "notebooks").glob("*.ipynb"))
RoundTrip = Callable[[str], str]


@pytest.fixture(scope="module")
def round_trip(module_folder: Path) -> Iterator[RoundTrip]:
    """Imports a file's content into a new notebook and exports that; one controller for all."""
    numbers = itertools.count(1)
    with asyncio.Runner() as runner:
        yard = Yard(module_folder)
        stubs = runner.run(yard.start())

        async def there_and_back(content: str) -> str:
            name = f"nb-{next(numbers)}"
            request = nb.ImportRequest(notebook_id=name, request_id=name, content=content.encode())
            await stubs.notebooks.Import(request)
            await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id=name))
            chunks = stubs.notebooks.Export(nb.ExportRequest(notebook_id=name))
            return b"".join([chunk.content async for chunk in chunks]).decode()

        yield lambda content: runner.run(there_and_back(content))
        runner.run(yard.close())


@given(notebook=notebooks())
@settings(max_examples=150, deadline=None)
def test_any_valid_notebook_comes_back(round_trip: RoundTrip, notebook: dict[str, Any]) -> None:
    content = json.dumps(notebook, ensure_ascii=False)
    assert normal(round_trip(content)) == normal(content)


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_notebooks_that_nobody_here_wrote_come_back(round_trip: RoundTrip, path: Path) -> None:
    content = path.read_text()
    if json.loads(content)["nbformat"] < 4:
        content = nbformat.writes(nbformat.reads(content, as_version=4))
    assert normal(round_trip(content)) == normal(content)
