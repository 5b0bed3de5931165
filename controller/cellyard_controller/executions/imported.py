"""Executions that happened elsewhere and came with a notebook's file: stored as ended, like those that ran here.

Where the file shows an error they ended `failed`, else `succeeded`; the reason is `imported`, the times are those of
the import.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, insert

from cellyard_controller.executions import records
from cellyard_controller.executions.live import finished_body
from cellyard_controller.executions.model import End, Event, Execution, State
from cellyard_controller.executions.parts import Parts, stored
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey, SessionId, new_execution_id
from cellyard_controller.store.blobs import Blobs
from cellyard_controller.store.schema import event_batches, executions
from cellyard_proto.outputs import NbOutput

IMPORTED = "imported"
_ZERO = -1
"""How a count of 0 is stored: in an execution 0 means that there is no count, and a file knows both."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One execution, ready for the store."""

    execution_id: ExecutionId
    cell_id: CellId
    row: dict[str, Any]
    events: dict[str, Any]
    parts: Parts


def prepare(cell_id: CellId, source: str, outputs: list[NbOutput], count: int | None) -> Imported:
    """An execution that gave these outputs. Encodes them, so it is work for a thread."""
    now = time.time()
    parts = Parts()
    outputs = parts.of_outputs(outputs, any_json=True)
    failed = any(output["output_type"] == "error" for output in outputs)
    execution = Execution(
        execution_id=new_execution_id(),
        cell_id=cell_id,
        session_id=SessionId(""),
        source=source,
        state=State.ENDED,
        accepted_at=now,
        start_deadline=now,
        end=End.FAILED if failed else End.SUCCEEDED,
        end_reason=IMPORTED,
        end_message="the outputs came with the notebook's file",
        execution_count=count or 0,
        started_at=now,
        ended_at=now,
    )
    events = [Event(1, "started", {"execution_count": execution.execution_count, "started_at": now})]
    events += [Event(number, "output", output) for number, output in enumerate(outputs, start=2)]
    events.append(Event(len(events) + 1, "finished", finished_body(execution)))
    execution = replace(execution, last_seq=len(events), execution_count=_ZERO if count == 0 else count or 0)
    outputs_json = json.dumps([stored(output) for output in outputs], separators=(",", ":"))
    return Imported(
        execution_id=execution.execution_id,
        cell_id=cell_id,
        row={
            "execution_id": execution.execution_id,
            "cell_id": cell_id,
            "session_id": execution.session_id,
            "source": source,
            "start_deadline": now,
            "stop_on_error": False,
            "state": execution.state,
            "end": execution.end,
            "end_reason": IMPORTED,
            "end_message": execution.end_message,
            "execution_count": execution.execution_count,
            "accepted_at": now,
            "started_at": now,
            "ended_at": now,
            "last_seq": execution.last_seq,
            "outputs": outputs_json,
            "stored_bytes": records.size_of(source, outputs_json),
        },
        events={
            "execution_id": execution.execution_id,
            "last_seq": execution.last_seq,
            "events": records.events_json(events),
        },
        parts=parts,
    )


def add(connection: Connection, notebook: NotebookKey, imported: Sequence[Imported], blobs: Blobs) -> None:
    """Stores them, in their order."""
    if imported:
        connection.execute(insert(executions), [{**each.row, "notebook_key": notebook} for each in imported])
        connection.execute(insert(event_batches), [each.events for each in imported])
        for each in imported:
            each.parts.keep(connection, blobs, notebook, each.execution_id)


def count_of(execution: Execution) -> int | None:
    """The count as a file has it: None where there is none, and 0 where a file said so."""
    return 0 if execution.execution_count == _ZERO else execution.execution_count or None
