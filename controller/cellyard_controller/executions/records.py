"""Executions and their events in the store. Each function is one step of somebody's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from cellyard_controller.executions.calls import Offers
from cellyard_controller.executions.model import USUAL, End, Event, Execution, Manner, State, Usage, Value
from cellyard_controller.executions.parts import restored, stored
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey, SessionId
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import displays, event_batches, executions

_RUNNING_COLUMNS = ("state", "execution_count", "started_at", "last_seq", "output_bytes")
_ENDED_COLUMNS = (
    "end",
    "end_reason",
    "end_message",
    "ended_at",
    "value",
    "value_is_repr",
    "cpu_s",
    "peak_memory_bytes",
    "wall_s",
    "outputs",
    "stored_bytes",
)

_NEW_COLUMNS = (
    "execution_id",
    "notebook_key",
    "cell_id",
    "session_id",
    "source",
    "timeout_s",
    "start_deadline",
    "stop_on_error",
    "state",
    "accepted_at",
    "offers",
    "stored_bytes",
)
_ADD = Hot(insert(executions), _NEW_COLUMNS)
_ADD_EVENTS = Hot(insert(event_batches), ("execution_id", "last_seq", "events"))
_THIS = executions.c.execution_id == bindparam("this")
_DISPATCHED = Hot(update(executions).where(_THIS).values(state=bindparam("new_state")))
_RUNNING: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _RUNNING_COLUMNS}
_ENDED = _RUNNING | {name: bindparam(f"new_{name}") for name in _ENDED_COLUMNS}
_SAVE_RUNNING = Hot(update(executions).where(_THIS).values(**_RUNNING))
_SAVE_ENDED = Hot(update(executions).where(_THIS).values(**_ENDED))


def add(connection: Connection, notebook: NotebookKey, execution: Execution) -> None:
    """Stores an accepted execution."""
    _ADD(
        connection,
        {
            "execution_id": execution.execution_id,
            "notebook_key": notebook,
            "cell_id": execution.cell_id,
            "session_id": execution.session_id,
            "source": execution.source,
            "timeout_s": execution.timeout_s,
            "start_deadline": execution.start_deadline,
            "stop_on_error": execution.stop_on_error,
            "state": execution.state,
            "accepted_at": execution.accepted_at,
            "offers": _asked_json(execution.offers, execution.manner),
            "stored_bytes": size_of(execution.source),
        },
    )


def set_dispatched(connection: Connection, execution_id: ExecutionId) -> None:
    """The kernel may have it from now on: it is never given to another one."""
    _DISPATCHED(connection, {"this": execution_id, "new_state": State.DISPATCHED})


def set_end_wanted(connection: Connection, execution_id: ExecutionId, why: str) -> None:
    """An interrupt was decided; it is delivered again after a restart."""
    connection.execute(update(executions).where(executions.c.execution_id == execution_id).values(end_wanted=why))


def save(connection: Connection, execution: Execution) -> None:
    """Stores what has become of an execution; its outputs once it has ended, before that its events tell them."""
    values = {
        "this": execution.execution_id,
        "new_state": execution.state,
        "new_execution_count": execution.execution_count,
        "new_started_at": execution.started_at,
        "new_last_seq": execution.last_seq,
        "new_output_bytes": execution.usage.output_bytes,
    }
    if execution.state is not State.ENDED:
        _SAVE_RUNNING(connection, values)
        return
    value, usage = execution.value, execution.usage
    outputs = _json([stored(output) for output in execution.outputs])
    values |= {
        "new_end": execution.end or "",
        "new_end_reason": execution.end_reason,
        "new_end_message": execution.end_message,
        "new_ended_at": execution.ended_at,
        "new_value": value.json if value else None,
        "new_value_is_repr": value.is_repr if value else False,
        "new_cpu_s": usage.cpu_s,
        "new_peak_memory_bytes": usage.peak_memory_bytes,
        "new_wall_s": usage.wall_s,
        "new_outputs": outputs,
        "new_stored_bytes": size_of(execution.source, outputs, value.json if value else ""),
    }
    _SAVE_ENDED(connection, values)


def add_events(connection: Connection, execution_id: ExecutionId, events: Sequence[Event]) -> None:
    """Stores one batch of events."""
    values = {"execution_id": execution_id, "last_seq": events[-1].seq, "events": events_json(events)}
    _ADD_EVENTS(connection, values)


def events_json(events: Sequence[Event]) -> str:
    """Events as they are stored."""
    return _json([[event.seq, event.kind, stored(event.body)] for event in events])


def add_displays(connection: Connection, notebook: NotebookKey, execution_id: ExecutionId, ids: Iterable[str]) -> None:
    """Notes under which ids an execution displays something."""
    for display_id in ids:
        known = select(displays.c.execution_id).where(
            displays.c.notebook_key == notebook,
            displays.c.display_id == display_id,
            displays.c.execution_id == execution_id,
        )
        if connection.execute(known).first() is None:
            connection.execute(
                insert(displays).values(notebook_key=notebook, display_id=display_id, execution_id=execution_id)
            )


def displaying(connection: Connection, notebook: NotebookKey, display_id: str) -> list[ExecutionId]:
    """The executions of a notebook that display something under this id."""
    found = select(displays.c.execution_id).where(
        displays.c.notebook_key == notebook, displays.c.display_id == display_id
    )
    return [ExecutionId(name) for name in connection.execute(found).scalars()]


def load(connection: Connection, notebook: NotebookKey, execution_id: ExecutionId) -> Execution | None:
    """One execution with its outputs."""
    row = connection.execute(
        select(executions).where(executions.c.notebook_key == notebook, executions.c.execution_id == execution_id)
    ).first()
    return _execution(row) if row else None


def load_many(
    connection: Connection, notebook: NotebookKey, ids: Sequence[ExecutionId]
) -> dict[ExecutionId, Execution]:
    """Executions by id, with their outputs."""
    found: dict[ExecutionId, Execution] = {}
    for start in range(0, len(ids), 500):  # SQLite bounds the number of parameters
        rows = connection.execute(
            select(executions).where(
                executions.c.notebook_key == notebook,
                executions.c.execution_id.in_(ids[start : start + 500]),
            )
        )
        found |= {ExecutionId(row.execution_id): _execution(row) for row in rows}
    return found


def unfinished(connection: Connection, notebook: NotebookKey) -> list[Execution]:
    """Executions that have not ended, in the order of their acceptance."""
    rows = connection.execute(
        select(executions)
        .where(executions.c.notebook_key == notebook, executions.c.state != State.ENDED)
        .order_by(executions.c.ordinal)
    )
    return [_execution(row) for row in rows]


def notebooks_with_unfinished(connection: Connection) -> set[NotebookKey]:
    """Notebooks that have something to go on with."""
    rows = connection.execute(select(executions.c.notebook_key).where(executions.c.state != State.ENDED).distinct())
    return {NotebookKey(key) for key in rows.scalars()}


def recent(connection: Connection, notebook: NotebookKey, limit: int, before: ExecutionId | None) -> list[Execution]:
    """Executions, newest first, without outputs."""
    columns = [column for column in executions.c if column is not executions.c.outputs]
    query = select(*columns).where(executions.c.notebook_key == notebook)
    if before is not None:
        older = select(executions.c.ordinal).where(
            executions.c.execution_id == before, executions.c.notebook_key == notebook
        )
        query = query.where(executions.c.ordinal < older.scalar_subquery())
    rows = connection.execute(query.order_by(executions.c.ordinal.desc()).limit(limit))
    return [_execution(row) for row in rows]


def last_by_cell(connection: Connection, notebook: NotebookKey) -> dict[CellId, ExecutionId]:
    """Each cell's last execution that was started."""
    newest = (
        select(func.max(executions.c.ordinal))
        .where(executions.c.notebook_key == notebook, executions.c.started_at > 0)
        .group_by(executions.c.cell_id)
    )
    rows = connection.execute(
        select(executions.c.cell_id, executions.c.execution_id).where(executions.c.ordinal.in_(newest))
    )
    return {CellId(row.cell_id): ExecutionId(row.execution_id) for row in rows}


def events_after(connection: Connection, execution_id: ExecutionId, after_seq: int, limit: int) -> list[Event]:
    """Events after a number, from at most `limit` batches."""
    rows = connection.execute(
        select(event_batches.c.events, event_batches.c.in_short)
        .where(event_batches.c.execution_id == execution_id, event_batches.c.last_seq > after_seq)
        .order_by(event_batches.c.last_seq)
        .limit(limit)
    )
    # Events in short begin with emptying the outputs: whatever the reader has, they are told whole.
    return [
        Event(seq, kind, restored(body))
        for row in rows
        for seq, kind, body in json.loads(row.events)
        if seq > after_seq or row.in_short
    ]


def size_of(*texts: str) -> int:
    """Bytes of texts, as they are kept."""
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _execution(row: Row[Any]) -> Execution:
    values = row._mapping
    return Execution(
        execution_id=ExecutionId(values["execution_id"]),
        cell_id=CellId(values["cell_id"]),
        session_id=SessionId(values["session_id"]),
        source=values["source"],
        state=State(values["state"]),
        accepted_at=values["accepted_at"],
        start_deadline=values["start_deadline"],
        timeout_s=values["timeout_s"],
        stop_on_error=values["stop_on_error"],
        end_wanted=values["end_wanted"],
        end=End(values["end"]) if values["end"] else None,
        end_reason=values["end_reason"],
        end_message=values["end_message"],
        execution_count=values["execution_count"],
        started_at=values["started_at"],
        ended_at=values["ended_at"],
        last_seq=values["last_seq"],
        outputs=[restored(output) for output in json.loads(values["outputs"])] if "outputs" in values else [],
        value=Value(values["value"], values["value_is_repr"]) if values["value"] is not None else None,
        usage=Usage(values["cpu_s"], values["peak_memory_bytes"], values["wall_s"], values["output_bytes"]),
        offers=_offers(values["offers"]),
        manner=_manner(values["offers"]),
    )


def _asked_json(offers: Offers, manner: Manner) -> str:
    asked: dict[str, Any] = {}
    if offers:
        asked |= {"functions": sorted(offers.functions), "input": offers.input}
    if manner != USUAL:
        asked["manner"] = [manner.silent, manner.store_history, manner.user_expressions, manner.payload]
    return _json(asked) if asked else ""


def _offers(text: str) -> Offers:
    if not text:
        return Offers()
    known = json.loads(text)
    return Offers(frozenset(known.get("functions", ())), known.get("input", False))


def _manner(text: str) -> Manner:
    known = json.loads(text).get("manner") if text else None
    if known is None:
        return USUAL
    silent, store_history, expressions, payload = known
    return Manner(silent, store_history, tuple((name, text) for name, text in expressions), payload)
