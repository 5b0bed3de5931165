"""Tenants and their quotas in the store. Each function is one step of somebody's transaction."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, Text, cast, func, insert, select, update

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.store.dialects import inserting
from cellyard_controller.store.schema import meta, tenants
from cellyard_controller.store.schema import tokens as tokens_table
from cellyard_controller.tenants import quotas, tokens
from cellyard_controller.tenants.quotas import Limit, Overrides
from cellyard_controller.tenants.tokens import Grant, Issued, Token

_VERSION = "access_version"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """One tenant."""

    name: TenantName
    created_at: float
    tokens: int
    """In force."""
    quotas: Overrides
    """What was set for it."""


def create(connection: Connection, name: str, changes: Mapping[str, str], grant: Grant) -> Issued:
    """Adds a tenant and returns its first token, the only time that it is seen. Raises InvalidRequest."""
    if _NAME.match(name) is None or name == LOCAL:
        raise InvalidRequest(
            f"{name[:80]!r} is no name for a tenant: 1 to 64 of letters, digits, '_', '-' and '.', and not 'local'"
        )
    if _overrides(connection, name) is not None:
        raise InvalidRequest(f"the tenant {name!r} exists already", tenant=name)
    set_for_it = json.dumps(quotas.changed({}, changes))
    connection.execute(insert(tenants).values(name=name, created_at=time.time(), quotas=set_for_it))
    _changed(connection)
    return tokens.issue(connection, TenantName(name), grant)


def require(connection: Connection, name: str) -> TenantName:
    """The tenant of this name. Raises InvalidRequest where there is none."""
    if _overrides(connection, name) is None:
        raise InvalidRequest(f"the tenant {name[:80]!r} does not exist", tenant=name[:80])
    return TenantName(name)


def require_any(connection: Connection, name: str) -> TenantName:
    """Likewise; `local` is one too."""
    return LOCAL if name == LOCAL else require(connection, name)


def set_quotas(connection: Connection, name: str, changes: Mapping[str, str]) -> TenantRecord:
    """Changes what a tenant may have, the quotas that are named. Raises InvalidRequest."""
    require(connection, name)
    result = quotas.changed(_overrides(connection, name) or {}, changes)
    connection.execute(update(tenants).where(tenants.c.name == name).values(quotas=json.dumps(result)))
    _changed(connection)
    return find(connection, name)


def find(connection: Connection, name: str) -> TenantRecord:
    """One tenant. Raises InvalidRequest where there is none."""
    require(connection, name)
    return next(record for record in listed(connection) if record.name == name)


def listed(connection: Connection) -> list[TenantRecord]:
    """All tenants by name."""
    now, expires = time.time(), tokens_table.c.expires_at
    in_force = (tokens_table.c.tenant == tenants.c.name) & (expires.is_(None) | (expires > now))
    rows = connection.execute(
        select(
            tenants.c.name, tenants.c.created_at, tenants.c.quotas, func.count(tokens_table.c.digest).label("tokens")
        )
        .join(tokens_table, in_force, isouter=True)
        .group_by(tenants.c.name, tenants.c.created_at, tenants.c.quotas)
        .order_by(tenants.c.name)
    )
    return [TenantRecord(TenantName(row.name), row.created_at, row.tokens, json.loads(row.quotas)) for row in rows]


def overrides(connection: Connection) -> dict[TenantName, Overrides]:
    """What was set for each tenant."""
    rows = connection.execute(select(tenants.c.name, tenants.c.quotas))
    return {TenantName(row.name): json.loads(row.quotas) for row in rows}


def issue(connection: Connection, name: str, grant: Grant) -> Issued:
    """Adds a token beside those that a tenant has. Raises InvalidRequest."""
    _changed(connection)
    return tokens.issue(connection, require(connection, name), grant)


def tokens_of(connection: Connection, name: str) -> list[Token]:
    """A tenant's tokens. Raises InvalidRequest where there is no such tenant."""
    return tokens.listed(connection, require(connection, name))


def revoke(connection: Connection, name: str, token_id: str = "") -> list[str]:
    """Takes one token of a tenant away, or all; returns the ids. Raises InvalidRequest."""
    _changed(connection)
    return tokens.revoke(connection, require(connection, name), token_id)


def version(connection: Connection) -> str:
    """Another one after each change of tenants, quotas and tokens, whichever controller made it."""
    return connection.execute(select(meta.c.value).where(meta.c.key == _VERSION)).scalar() or ""


def _changed(connection: Connection) -> None:
    first = inserting(connection.dialect.name)(meta).values(key=_VERSION, value="1")
    one_more = cast(cast(meta.c.value, Integer) + 1, Text)
    connection.execute(first.on_conflict_do_update(index_elements=["key"], set_={"value": one_more}))


def _overrides(connection: Connection, name: str) -> dict[str, Limit] | None:
    stored = connection.execute(select(tenants.c.quotas).where(tenants.c.name == name)).scalar()
    return None if stored is None else json.loads(stored)
