"""Tenants and their tokens.

A token is 256 random bits. The store has its SHA-256: a token cannot be guessed, so its hash needs no salt, and looking
a hash up tells nothing about the token by its timing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.store.schema import tenants, tokens

MAX_TOKEN = 4096
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """One tenant."""

    name: TenantName
    created_at: float
    tokens: int


def create(connection: Connection, name: str) -> str:
    """Adds a tenant and returns its token, the only time that it is seen. Raises InvalidRequest."""
    if _NAME.match(name) is None or name == LOCAL:
        raise InvalidRequest(
            f"{name!r} is no name for a tenant: 1 to 64 of letters, digits, '_', '-' and '.', and not 'local'"
        )
    known = select(tenants.c.name).where(tenants.c.name == name)
    if connection.execute(known).first() is not None:
        raise InvalidRequest(f"the tenant {name!r} exists already", tenant=name)
    token = f"cy_{secrets.token_urlsafe(32)}"
    now = time.time()
    connection.execute(insert(tenants).values(name=name, created_at=now))
    connection.execute(insert(tokens).values(digest=digest(token), tenant=name, created_at=now))
    return token


def revoke(connection: Connection, name: str) -> None:
    """Takes all tokens of a tenant away. Raises InvalidRequest where there is no such tenant."""
    known = select(tenants.c.name).where(tenants.c.name == name)
    if connection.execute(known).first() is None:
        raise InvalidRequest(f"the tenant {name!r} does not exist", tenant=name)
    connection.execute(delete(tokens).where(tokens.c.tenant == name))


def listed(connection: Connection) -> list[TenantRecord]:
    """All tenants by name."""
    rows = connection.execute(
        select(tenants.c.name, tenants.c.created_at, func.count(tokens.c.digest).label("tokens"))
        .join(tokens, tokens.c.tenant == tenants.c.name, isouter=True)
        .group_by(tenants.c.name, tenants.c.created_at)
        .order_by(tenants.c.name)
    )
    return [TenantRecord(TenantName(row.name), row.created_at, row.tokens) for row in rows]


def in_force(connection: Connection) -> dict[bytes, TenantName]:
    """The digests of all tokens that are in force, with their tenants."""
    return {row.digest: TenantName(row.tenant) for row in connection.execute(select(tokens))}


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()
