"""Rows as tests of leases put them there, without a controller."""

from __future__ import annotations

import uuid

from sqlalchemy import ColumnElement, Connection, insert

from cellyard_controller.store.schema import executions


def add_execution(connection: Connection, key: int | ColumnElement[int], state: str) -> None:
    """An execution of the notebook with this key."""
    connection.execute(
        insert(executions).values(
            execution_id=uuid.uuid4().hex,
            notebook_key=key,
            cell_id="c",
            session_id="s",
            source="1",
            start_deadline=0.0,
            stop_on_error=False,
            state=state,
            accepted_at=0.0,
        )
    )
