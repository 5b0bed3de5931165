"""`cellyard notebooks watch`: what happens to a notebook, one line an event."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cellyard.cli import outcome
from cellyard.cli.listing import must_exist
from cellyard.cli.options import AsJson, Endpoint, NotebookId, Token
from cellyard.cli.printing import visible

if TYPE_CHECKING:
    from cellyard import NotebookEvent


def watch_notebook(
    notebook_id: NotebookId, endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Follows a notebook, until interrupted.

    It tells how the notebook is, and then what happens to it, one event a line; with --json one object a line.
    """
    from cellyard import Session

    with outcome.sentences():
        must_exist(notebook_id, endpoint, token)
        session = Session(notebook_id, endpoint=endpoint, token=token)
        try:
            for event in session.watch():
                line = json.dumps(_described(event), default=str) if as_json else visible(_sentence(event))
                print(line, flush=True)
        finally:
            session.close()


def _sentence(event: NotebookEvent) -> str:
    from cellyard import events
    from cellyard._display import shorten

    match event:
        case events.Snapshot():
            return f"notebook {event.notebook_id}: {len(event.cells)} cells, kernel {event.kernel.state}"
        case events.CellUpdated(cell=cell):
            place = f"behind {event.after}" if event.after else "first"
            return f"cell {cell.id} ({cell.cell_type}, {place}): {shorten(cell.source, 60)!r}"
        case events.CellRemoved():
            return f"cell {event.cell_id} removed"
        case events.MetadataChanged():
            return f"metadata {event.key}: {'removed' if event.value is None else shorten(event.value, 60)}"
        case events.KernelChanged(kernel=kernel):
            why = f" ({kernel.end_reason})" if kernel.end_reason else ""
            return f"kernel {kernel.state}{why}"
        case events.CommSaid():
            return f"comm {event.comm_id}: {event.kind}"
        case events.ExecutionEvent(event=events.Accepted(execution=execution)):
            return f"{event.execution_id} of {event.cell_id}: accepted, {execution.status}"
        case events.ExecutionEvent():
            return f"{event.execution_id} of {event.cell_id}: {event.event!r}"


def _described(event: object) -> dict[str, Any]:
    return {"type": type(event).__name__, **_fields(event)}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    from cellyard import Output, events

    if isinstance(value, Output):
        return value.to_nbformat()
    if isinstance(value, events.Accepted | events.Event):
        return _described(value)
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
