"""The tools for a notebook's cells."""

from __future__ import annotations

from mcp import types

from cellyard._display import shorten
from cellyard.mcp import arguments, bounds, results
from cellyard.mcp.tools import Call, Tool, listing

_SHOWN = 200


async def list_cells(call: Call, given: arguments.ListCells) -> types.CallToolResult:
    """The cells in their order, with the begin of each."""
    async with call.at(given.notebook_id) as session:
        cells = await session.get_cells()
        part = cells[given.start : given.start + given.limit]
        end = given.start + len(part)
        shown = [
            {
                **results.fields(cell, "id", "cell_type", "execution_count", "execution_id"),
                "source": shorten(cell.source, _SHOWN),
                "source_length": len(cell.source),
                "outputs": [output.output_type for output in cell.outputs[:10]],
            }
            for cell in part
        ]
        return results.data(
            {
                "notebook_id": session.notebook_id,
                "total": len(cells),
                **({"next_start": end} if part and end < len(cells) else {}),
                "cells": shown,
            }
        )


async def get_cell(call: Call, given: arguments.GetCell) -> types.CallToolResult:
    """One cell; a long source comes in parts."""
    async with call.at(given.notebook_id) as session:
        cell = await session.get_cell(given.cell_id)
        page = bounds.page(cell.source, given.offset, call.limit)
        return results.data(
            {
                **results.fields(cell, "id", "cell_type", "version", "execution_count", "execution_id"),
                "source": page.content,
                "source_length": page.total,
                **({} if page.next_offset is None else {"next_offset": page.next_offset}),
            }
        )


async def create_cell(call: Call, given: arguments.CreateCell) -> types.CallToolResult:
    """Adds a cell."""
    async with call.at(given.notebook_id, makes=True) as session:
        cell_id = await session.create_cell(given.source, given.cell_type, given.index)
        return results.data({"notebook_id": session.notebook_id, "cell_id": cell_id})


async def edit_cell(call: Call, given: arguments.EditCell) -> types.CallToolResult:
    """Writes a cell's whole source."""
    async with call.at(given.notebook_id) as session:
        await session.set_source(given.cell_id, given.source, if_version=given.if_version)
        cell = await session.get_cell(given.cell_id)
        return results.data({"cell_id": given.cell_id, "version": cell.version})


async def delete_cell(call: Call, given: arguments.DeleteCell) -> types.CallToolResult:
    """Removes a cell."""
    async with call.at(given.notebook_id) as session:
        await session.delete_cell(given.cell_id)
        return results.text(f"cell {given.cell_id} is deleted")


async def move_cell(call: Call, given: arguments.MoveCell) -> types.CallToolResult:
    """Puts a cell somewhere else."""
    async with call.at(given.notebook_id) as session:
        await session.move_cell(given.cell_id, given.after)
        return results.text(f"cell {given.cell_id} is " + (f"behind {given.after}" if given.after else "the first one"))


_CELL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "cell_type": {"type": "string"},
        "version": {"type": "string"},
        "execution_count": {"type": "integer"},
        "execution_id": {"type": "string"},
        "source": {"type": "string"},
        "source_length": {"type": "integer"},
        "next_offset": {"type": "integer"},
    },
    "required": ["id", "cell_type", "version", "source", "source_length"],
}
_CREATED = {
    "type": "object",
    "properties": {"notebook_id": {"type": "string"}, "cell_id": {"type": "string"}},
    "required": ["notebook_id", "cell_id"],
}
_EDITED = {
    "type": "object",
    "properties": {"cell_id": {"type": "string"}, "version": {"type": "string"}},
    "required": ["cell_id", "version"],
}

TOOLS = (
    Tool(
        "list_cells",
        "List cells",
        "Lists a notebook's cells in order: id, type, the begin of the source, and the execution whose outputs the cell"
        " shows (read_output reads them).",
        arguments.ListCells,
        list_cells,
        reads=True,
        gives=listing(
            "cells",
            notebook_id={"type": "string"},
            total={"type": "integer"},
            next_start={"type": "integer"},
        ),
    ),
    Tool(
        "get_cell",
        "Get a cell",
        "Gives a cell's source and its version.",
        arguments.GetCell,
        get_cell,
        reads=True,
        gives=_CELL,
    ),
    Tool(
        "create_cell",
        "Create a cell",
        "Adds a cell to a notebook without running it: code, markdown or raw.",
        arguments.CreateCell,
        create_cell,
        gives=_CREATED,
    ),
    Tool(
        "edit_cell",
        "Edit a cell",
        "Replaces a cell's whole source. The last writer wins, unless if_version is given.",
        arguments.EditCell,
        edit_cell,
        destroys=True,
        repeatable=True,
        gives=_EDITED,
    ),
    Tool(
        "delete_cell",
        "Delete a cell",
        "Removes a cell; what waits to run of it is cancelled.",
        arguments.DeleteCell,
        delete_cell,
        destroys=True,
    ),
    Tool(
        "move_cell",
        "Move a cell",
        "Puts a cell behind another one, or first.",
        arguments.MoveCell,
        move_cell,
        repeatable=True,
    ),
)
