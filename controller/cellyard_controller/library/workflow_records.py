"""Workflows in the store. Each function is one step of somebody's transaction."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select

from cellyard_controller.config import LibraryConfig
from cellyard_controller.library.places import Place, too_many
from cellyard_controller.store.dialects import insert
from cellyard_controller.store.schema import workflows
from cellyard_proto import amounts, values

_KEYS = ("tenant", "workspace", "name")


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """One workflow, read and found good."""

    name: str
    source: str
    """Empty in lists, where it was not asked for."""
    given: str
    """The description as it was given; empty where the source's own is meant."""
    summary: str
    """Description and parameters, tagged JSON."""

    def as_data(self) -> dict[str, Any]:
        """Name, description and parameters."""
        return {"name": self.name, **values.decode(self.summary)}

    @property
    def size(self) -> int:
        """Bytes that are kept of it."""
        return sum(len(text.encode()) for text in (self.name, self.source, self.given, self.summary))


def put(connection: Connection, place: Place, record: WorkflowRecord, limits: LibraryConfig) -> None:
    """Keeps one, in place of one of the same name. Raises QuotaExceeded."""
    mine, size = workflows.c.tenant == place.tenant, record.size
    there = connection.execute(select(workflows.c.stored_bytes).where(_here(place, record.name))).scalar()
    total = select(func.count(), func.coalesce(func.sum(workflows.c.stored_bytes), 0)).select_from(workflows)
    count, kept = map(int, connection.execute(total.where(mine)).one())
    if there is None and count >= limits.workflows:
        raise too_many(place.tenant, "workflows", f"{count:,}")
    if kept - (there or 0) + size > limits.sources:
        raise too_many(place.tenant, "sources", amounts.size(kept))
    values_of: dict[str, Any] = {
        "source": record.source,
        "description": record.given,
        "summary": record.summary,
        "stored_bytes": size,
        "changed_at": time.time(),
    }
    new = insert(connection, workflows).values(
        tenant=place.tenant, workspace=place.workspace, name=record.name, **values_of
    )
    connection.execute(new.on_conflict_do_update(index_elements=list(_KEYS), set_=values_of))


def find(connection: Connection, place: Place, name: str) -> WorkflowRecord | None:
    """The workflow of this name."""
    row = connection.execute(select(workflows).where(_here(place, name))).first()
    return _record(row, row.source) if row else None


def listed(
    connection: Connection, place: Place, limit: int, after: str, max_bytes: int, *, sources: bool
) -> tuple[list[WorkflowRecord], bool]:
    """Workflows by name, and whether there are others behind them: at most `limit`, of about so many bytes."""
    columns = [workflows.c.name, workflows.c.description, workflows.c.summary]
    query = select(*columns, *([workflows.c.source] if sources else []))
    query = query.where(workflows.c.tenant == place.tenant, workflows.c.workspace == place.workspace)
    rows = connection.execute(query.where(workflows.c.name > after).order_by(workflows.c.name).limit(limit + 1))
    found: list[WorkflowRecord] = []
    with rows:
        for row in rows:
            if len(found) == limit or max_bytes <= 0:
                return found, True
            found.append(_record(row, row.source if sources else ""))
            max_bytes -= found[-1].size
    return found, False


def remove(connection: Connection, place: Place, name: str) -> bool:
    """Takes one away; False where there is none."""
    return connection.execute(delete(workflows).where(_here(place, name))).rowcount > 0


def _here(place: Place, name: str) -> Any:
    table = workflows.c
    return (table.tenant == place.tenant) & (table.workspace == place.workspace) & (table.name == name)


def _record(row: Any, source: str) -> WorkflowRecord:
    return WorkflowRecord(row.name, source, row.description, row.summary)
