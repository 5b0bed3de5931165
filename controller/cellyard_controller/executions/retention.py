"""What is kept of executions, and how long: the last ended ones of a notebook, and always each cell's last.

Events are for streams. Some time after the end an execution's events are told in short: empty the outputs, the outputs
as they are, finished. What is due is looked up on a reading connection; the writing steps are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from cellyard_controller.clock import steady
from cellyard_controller.executions import blob_uses, parts, records
from cellyard_controller.executions.live import finished_body
from cellyard_controller.executions.model import Event, Execution, State
from cellyard_controller.ids import ExecutionId, NotebookKey
from cellyard_controller.store.schema import event_batches, executions, expired

KEPT = 100
"""Ended executions of a notebook that are kept besides each cell's last one."""
EVENTS_KEPT_S = 600.0
"""Seconds after its end for which an execution's events are kept one by one."""
EXPIRED_KNOWN_S = 30 * 24 * 3600.0
"""Seconds for which an expired execution is known to have been one."""
AT_A_TIME = 200
"""Executions that one step works on at most."""


@dataclass(frozen=True, slots=True)
class Short:
    """An execution's events in short, ready for the store."""

    execution_id: ExecutionId
    last_seq: int
    events: str
    parts: frozenset[str]
    """Digests of the large parts that are left in them."""


def to_expire(connection: Connection, kept: int = KEPT) -> list[tuple[NotebookKey, ExecutionId]]:
    """Executions past what is kept."""
    lasting = (
        select(func.max(executions.c.ordinal))
        .where(executions.c.started_at > 0)
        .group_by(executions.c.notebook_key, executions.c.cell_id)
    )
    age = func.row_number().over(partition_by=executions.c.notebook_key, order_by=executions.c.ordinal.desc())
    ranked = (
        select(executions.c.notebook_key, executions.c.execution_id, age.label("age"))
        .where(executions.c.state == State.ENDED, executions.c.ordinal.not_in(lasting))
        .subquery()
    )
    rows = connection.execute(select(ranked).where(ranked.c.age > kept).limit(AT_A_TIME))
    return [(NotebookKey(row.notebook_key), ExecutionId(row.execution_id)) for row in rows]


def expire(connection: Connection, due: Sequence[tuple[NotebookKey, ExecutionId]]) -> None:
    """Removes executions, and notes that they were there."""
    for notebook, name in due:
        if connection.execute(delete(executions).where(executions.c.execution_id == name)).rowcount:
            connection.execute(insert(expired).values(execution_id=name, notebook_key=notebook, at=steady()))


def was_there(connection: Connection, notebook: NotebookKey, execution_id: ExecutionId) -> bool:
    """Whether there was such an execution, before it expired."""
    found = select(expired.c.at).where(expired.c.notebook_key == notebook, expired.c.execution_id == execution_id)
    return connection.execute(found).first() is not None


def forget_expired(connection: Connection) -> None:
    """Forgets what expired long ago."""
    connection.execute(delete(expired).where(expired.c.at < steady() - EXPIRED_KNOWN_S))


def to_shorten(connection: Connection, ended_before: float) -> list[Short]:
    """The events in short of executions that ended before a time and still have theirs one by one."""
    rows = connection.execute(
        select(executions.c.notebook_key, executions.c.execution_id)
        .where(executions.c.state == State.ENDED, executions.c.ended_at < ended_before)
        .where(
            executions.c.execution_id.in_(
                select(event_batches.c.execution_id).where(event_batches.c.in_short.is_(False))
            )
        )
        .limit(AT_A_TIME)
    ).all()
    due: list[Short] = []
    for row in rows:
        execution = records.load(connection, NotebookKey(row.notebook_key), ExecutionId(row.execution_id))
        if execution is not None:
            events = records.events_json(in_short(execution))
            left = parts.used(execution.outputs)
            due.append(Short(execution.execution_id, execution.last_seq, events, left))
    return due


def shorten(connection: Connection, due: Sequence[Short]) -> None:
    """Puts events in short in the place of events one by one, where nothing was added meanwhile."""
    for short in due:
        now = select(executions.c.last_seq).where(executions.c.execution_id == short.execution_id)
        if connection.execute(now).scalar() != short.last_seq:
            continue
        connection.execute(delete(event_batches).where(event_batches.c.execution_id == short.execution_id))
        connection.execute(
            insert(event_batches).values(
                execution_id=short.execution_id, last_seq=short.last_seq, events=short.events, in_short=True
            )
        )
        blob_uses.keep_only(connection, short.execution_id, short.parts)


def in_short(execution: Execution) -> list[Event]:
    """An ended execution's events, folded: never more than there were, so there are numbers for all of them."""
    told: list[Event] = []
    if execution.started_at:
        told.append(Event(0, "clear_output", {"wait": False}))
    told += [Event(0, "output", output) for output in execution.outputs]
    told.append(Event(0, "finished", finished_body(execution)))
    first = execution.last_seq - len(told) + 1
    return [Event(seq, event.kind, event.body) for seq, event in enumerate(told, start=first)]
