"""Files in nbformat: read without loss, or refused with the place of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat as reference
import pytest
from hypothesis import given, settings
from tests.notebook_files import normal, notebooks

from cellyard_controller.config import LimitsConfig
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks import nbformat

LIMITS = LimitsConfig()
SHARED = sorted((Path(__file__).parents[4] / "shared" / "notebooks").glob("*.ipynb"))


def rewritten(content: str) -> str:
    notebook = nbformat.read(content.encode(), LIMITS)
    (cells,) = nbformat.cells_json(notebook.cells, notebook.minor)
    return f"{nbformat.opening(notebook.minor, notebook.metadata)}{cells}{nbformat.CLOSING}"


def with_cell(**fields: Any) -> bytes:
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "source": "", "outputs": [], "execution_count": None}
    return with_cells(cell | fields)


def with_cells(*cells: Any, **fields: Any) -> bytes:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)} | fields).encode()


def output(**fields: Any) -> bytes:
    return with_cell(outputs=[fields])


@given(notebooks())
@settings(max_examples=300, deadline=None)
def test_what_is_read_is_written_again(notebook: dict[str, Any]) -> None:
    content = json.dumps(notebook)
    assert normal(rewritten(content)) == normal(content)


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_notebooks_that_nobody_here_wrote_come_back(path: Path) -> None:
    content = path.read_text()
    if json.loads(content)["nbformat"] < 4:
        content = reference.writes(reference.reads(content, as_version=4))
    assert normal(rewritten(content)) == normal(content)


def test_json_that_only_python_writes_is_kept() -> None:
    content = with_cell(metadata={"x": [float("nan"), float("inf"), 10**400, "half \ud800"]}).decode()
    assert json.dumps(json.loads(rewritten(content))["cells"][0]) == json.dumps(
        {
            "cell_type": "code",
            "id": "c",
            "metadata": {"x": [float("nan"), float("inf"), 10**400, "half \ud800"]},
            "source": "",
            "execution_count": None,
            "outputs": [],
        }
    )


def test_what_the_format_calls_transient_is_not_kept() -> None:
    transient = {"orig_nbformat": 3, "orig_nbformat_minor": 0, "signature": "s"}
    cell = {"cell_type": "raw", "source": "", "metadata": {"trusted": True, "k": 1}}
    read = nbformat.read(with_cells(cell, metadata={**transient, "k": 1}), LIMITS)
    assert (read.metadata, read.cells[0].metadata) == ({"k": 1}, {"k": 1})
    shown = {"output_type": "display_data", "data": {}, "metadata": {}, "transient": {"display_id": "d"}}
    written = nbformat.NbCell(CellId("c"), "code", "", {"trusted": True}, outputs=[shown])
    (cells,) = nbformat.cells_json([written], 5)
    content = json.loads(f"{nbformat.opening(5, transient)}{cells}{nbformat.CLOSING}")
    assert (content["metadata"], content["cells"][0]["metadata"]) == ({}, {})
    assert set(content["cells"][0]["outputs"][0]) == {"output_type", "data", "metadata"}


def test_ids_are_made_where_they_are_missing_not_valid_or_taken() -> None:
    cells = [
        {"cell_type": "raw", "source": ""} | more for more in ({}, {"id": "a"}, {"id": "a"}, {"id": "ä"}, {"id": 1})
    ]
    ids = [cell.cell_id for cell in nbformat.read(with_cells(*cells), LIMITS).cells]
    assert ids[1] == "a"
    assert len(set(ids)) == 5
    assert all(cell_id.startswith("cell-") for cell_id in [ids[0], *ids[2:]])


def test_ids_of_a_file_are_its_cells_own_where_nbformat_allows_them() -> None:
    ids = [CellId(name) for name in ("cell-1", "has blanks", "x" * 65, "ä")]
    made = nbformat.file_ids(ids)
    assert made[ids[0]] == "cell-1"
    assert nbformat.file_ids(reversed(ids)) == made
    for name in made.values():
        reference.validate({"cell_type": "raw", "id": name, "metadata": {}, "source": ""}, "raw_cell", 4, 5)
    clash = [CellId("has blanks"), made[ids[1]]]
    assert len(set(nbformat.file_ids(clash).values())) == 2


def test_what_is_missing_but_says_nothing_is_filled_in() -> None:
    content = json.dumps({"nbformat": 4, "cells": [{"cell_type": "code"}, {"cell_type": "markdown", "id": "m"}]})
    normal(rewritten(content))
    read = nbformat.read(content.encode(), LIMITS)
    assert (read.minor, read.metadata, [cell.source for cell in read.cells]) == (0, {}, ["", ""])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON.*invalid start byte"),
        (b"{", "no JSON"),
        (b"[" * 1000, "nested more than"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "more than 1000000 arrays and objects"),
        (b"1" * 5000, "Exceeds the limit"),
        (b"[]", "no notebook"),
        (b'{"cells": []}', "no notebook"),
        (b'{"nbformat": 3, "worksheets": []}', "nbformat '3'.'0'; 4.0 to 4.5"),
        (b'{"nbformat": 4, "nbformat_minor": 6, "cells": []}', "4.0 to 4.5"),
        (b'{"nbformat": 4, "nbformat_minor": true, "cells": []}', "4.0 to 4.5"),
        (b'{"nbformat": 4}', "cells is no array"),
        (with_cells(metadata=[]), "metadata is no object"),
        (with_cells(worksheets=[]), "the field 'worksheets'"),
        (with_cells(1), r"cells\[0\] has the cell type"),
        (with_cells({"cell_type": ["code"]}), r"cells\[0\] has the cell type"),
        (with_cell(cell_type="heading"), "'heading', not one of code, markdown, raw"),
        (with_cell(collapsed=True), "the field 'collapsed'"),
        (with_cell(source=1), r"cells\[0\]\.source is no text"),
        (with_cell(source=["a", 1]), r"cells\[0\]\.source is no text"),
        (with_cell(source="\ud83d"), r"cells\[0\]\.source has half of a surrogate pair"),
        (with_cell(metadata={"\ud83d": 1}), r"cells\[0\]\.metadata has half of a surrogate pair"),
        (with_cell(outputs={}), r"cells\[0\]\.outputs is no array"),
        (with_cell(execution_count=-1), "execution_count is '-1'"),
        (with_cell(execution_count=True), "execution_count is 'true'"),
        (with_cell(execution_count=1.0), "execution_count is '1.0'"),
        (with_cell(execution_count=2**31), "execution_count is '2147483648'"),
        (with_cell(cell_type="raw", outputs=[]), "the field "),
        (with_cells({"cell_type": "raw", "attachments": {"a": 1}}), r"attachments\['a'\] is no object"),
        (output(), r"outputs\[0\] has the output type 'null'"),
        (output(output_type="pyout"), "the output type 'pyout'"),
        (output(output_type="stream", name="stdout"), r"outputs\[0\]\.text is no text"),
        (output(output_type="stream", name="stdout", text="\udc00"), "surrogate"),
        (output(output_type="stream", name="stdout", text="", transient={}), "the field 'transient'"),
        (output(output_type="error", ename="E", evalue="", traceback="x"), "traceback is no array"),
        (output(output_type="error", ename="E", evalue="", traceback=[1]), r"traceback\[0\] is no text"),
        (output(output_type="display_data", metadata={}), r"outputs\[0\]\.data is no object"),
        (output(output_type="display_data", data={"\ud800": ""}, metadata={}), "surrogate"),
        (output(output_type="display_data", data={}, metadata=1), r"outputs\[0\]\.metadata is no object"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(content: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        nbformat.read(content, LIMITS)
    assert len(refused.value.message) < 300


def test_what_is_too_large_is_refused() -> None:
    limits = LimitsConfig(source=100, metadata=50)
    nbformat.read(with_cell(source="ä" * 44, metadata={"a": 1}), limits)
    with pytest.raises(InvalidRequest, match="sources of 102 bytes"):
        nbformat.read(with_cell(source="ä" * 46), limits)
    with pytest.raises(InvalidRequest, match="limit 100"):
        nbformat.read(with_cells(*[{"cell_type": "raw"}] * 11), limits)
    for content in (with_cell(metadata={"a": "x" * 50}), with_cells(metadata={"a": "x" * 50})):
        with pytest.raises(InvalidRequest, match="metadata is larger than 50 bytes"):
            nbformat.read(content, limits)
