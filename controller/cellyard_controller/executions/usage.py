"""What tenants have used: executions summed by the day (UTC) of their end. Kept when executions are forgotten."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, bindparam, case, select

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.executions.model import Execution
from cellyard_controller.ids import TenantName
from cellyard_controller.store.dialects import Insert, Inserting
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import usage


@dataclass(frozen=True, slots=True)
class Day:
    """What one tenant used on one day."""

    tenant: TenantName
    day: str
    """As 2024-02-29."""
    executions: int
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int
    """The highest of any execution."""
    output_bytes: int


_SUMMED = ("executions", "cpu_s", "wall_s", "output_bytes")


def _adding(insert: Inserting) -> Insert:
    new = insert(usage).values({column.name: bindparam(column.name) for column in usage.c})
    before, now = usage.c.peak_memory_bytes, new.excluded.peak_memory_bytes
    return new.on_conflict_do_update(
        index_elements=["tenant", "day"],
        set_={name: usage.c[name] + new.excluded[name] for name in _SUMMED}
        | {"peak_memory_bytes": case((before > now, before), else_=now)},
    )


_ADD = Hot(_adding)


def add(connection: Connection, used: Day) -> None:
    """Adds to a tenant's day."""
    values = {name: getattr(used, name) for name in ("tenant", "day", *_SUMMED, "peak_memory_bytes")}
    _ADD(connection, values)


def by_day(connection: Connection, tenant: TenantName | None, first: str, last: str) -> list[Day]:
    """Usage by tenant and day; None for all tenants, empty days for any. Raises InvalidRequest for what is no day."""
    first, last = _day(first), _day(last)
    query = select(usage).order_by(usage.c.tenant, usage.c.day)
    if tenant is not None:
        query = query.where(usage.c.tenant == tenant)
    if first:
        query = query.where(usage.c.day >= first)
    if last:
        query = query.where(usage.c.day <= last)
    return [Day(**row._mapping) for row in connection.execute(query)]


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if text else ""
    except ValueError:
        raise InvalidRequest(f"{text[:40]!r} is no day: write it as 2024-02-29") from None


def of_execution(tenant: TenantName, ended: Execution) -> Day:
    """What one execution adds to its tenant's day."""
    used = ended.usage
    day = time.strftime("%Y-%m-%d", time.gmtime(ended.ended_at))
    return Day(tenant, day, 1, used.cpu_s, used.wall_s, used.peak_memory_bytes, used.output_bytes)
