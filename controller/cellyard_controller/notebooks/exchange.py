"""Between a notebook's file and what the controller keeps of it: cells in the document, outputs in executions."""

from __future__ import annotations

import json
from dataclasses import dataclass

from cellyard_controller.config import LimitsConfig
from cellyard_controller.executions import imported
from cellyard_controller.executions.imported import Imported
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks import nbformat
from cellyard_controller.notebooks.document import DocumentCell
from cellyard_controller.notebooks.nbformat import NbCell
from cellyard_controller.notebooks.pages import Cell


@dataclass(frozen=True, slots=True)
class Draft:
    """A notebook to put in: ready to be written and stored."""

    cells: list[DocumentCell]
    executions: list[Imported]
    metadata: str
    nbformat_minor: int


def draft(content: bytes, limits: LimitsConfig) -> Draft:
    """What becomes of a file's content. Work for a thread. Raises InvalidRequest."""
    notebook = nbformat.read(content, limits)
    return Draft(
        cells=[
            DocumentCell(cell.cell_id, cell.cell_type, cell.source, cell.metadata, cell.attachments)
            for cell in notebook.cells
        ],
        executions=[
            imported.prepare(cell.cell_id, cell.source, cell.outputs, cell.execution_count)
            for cell in notebook.cells
            if cell.outputs or cell.execution_count is not None
        ],
        metadata=json.dumps(notebook.metadata),
        nbformat_minor=notebook.minor,
    )


def nb_cell(cell: Cell, file_id: CellId) -> NbCell:
    """A cell as a file has it."""
    document, execution = cell.document, cell.execution
    return NbCell(
        cell_id=file_id,
        cell_type=document.cell_type,
        source=document.source,
        metadata=document.metadata,
        attachments=document.attachments,
        outputs=execution.outputs if execution else [],
        execution_count=imported.count_of(execution) if execution else None,
    )
