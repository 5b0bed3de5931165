"""Tokens: what a tenant proves itself with. It may have several, so that one is replaced without a gap.

A token is `cy_ID_SECRET`: an id, which is no secret and by which people call it, and 256 random bits. The store has its
SHA-256: a token cannot be guessed, so its hash needs no salt, and looking a hash up tells nothing about the token by
its timing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import TenantName
from cellyard_controller.store.schema import tokens

MAX_TOKEN = 4096
_MAX_NAME = 64
_MAX_CERTIFICATE = 256
_ID_BYTES = 6


class Scope(StrEnum):
    """What a token allows. Each allows what those before it allow."""

    READ = "read"
    """Looking: documents, outputs, executions, sandboxes. Nothing that changes something or reaches a kernel."""
    RUN = "run"
    """Working: editing, executing, files, commands, kernels."""
    FULL = "full"
    """All that a tenant may: deleting notebooks and stopping sandboxes too."""

    def allows(self, needed: Scope) -> bool:
        """Whether a token of this scope may do what needs that one."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is to allow, and for how long."""

    name: str = ""
    """For people; need not be unique."""
    scope: str = Scope.FULL
    expires_in_s: float | None = None
    certificate: str = ""
    """A name in the client's certificate without which the token is void; empty for any connection."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token, the only time that it is seen, and the id by which it is called from then on."""

    token: str
    token_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """One token as it is stored."""

    token_id: str
    tenant: TenantName
    name: str
    scope: Scope
    certificate: str
    created_at: float
    expires_at: float | None
    used_at: float
    """Its last use, to the minute; 0 for never."""

    def in_force(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


def issue(connection: Connection, tenant: TenantName, grant: Grant) -> Issued:
    """Adds a token of a tenant that is there. Raises InvalidRequest."""
    if len(grant.name) > _MAX_NAME or not (grant.name.isprintable()):
        raise InvalidRequest(f"{grant.name[:80]!r} is no name for a token: at most {_MAX_NAME} printable characters")
    if grant.scope not in list(Scope):
        raise InvalidRequest(f"unknown scope {grant.scope[:40]!r}: one of {', '.join(Scope)}")
    if len(grant.certificate) > _MAX_CERTIFICATE or not grant.certificate.isprintable():
        raise InvalidRequest(f"the name of a certificate has at most {_MAX_CERTIFICATE} printable characters")
    now, span = time.time(), grant.expires_in_s
    if span is not None and not 0 < span < 1e10:
        raise InvalidRequest(f"a token expires after a number of seconds above 0, not {span:g}")
    token_id = secrets.token_hex(_ID_BYTES)
    token = f"cy_{token_id}_{secrets.token_urlsafe(32)}"
    connection.execute(
        insert(tokens).values(
            digest=digest(token),
            tenant=tenant,
            created_at=now,
            token_id=token_id,
            name=grant.name,
            scope=grant.scope,
            certificate=grant.certificate,
            expires_at=None if span is None else now + span,
        )
    )
    return Issued(token, token_id)


def revoke(connection: Connection, tenant: TenantName, token_id: str = "") -> list[str]:
    """Takes one token of a tenant away, or all; returns the ids. Raises InvalidRequest where there is no such one."""
    mine = tokens.c.tenant == tenant
    if token_id:
        mine &= tokens.c.token_id == token_id
    found = list(connection.execute(select(tokens.c.token_id).where(mine)).scalars())
    if token_id and not found:
        raise InvalidRequest(f"the tenant {tenant!r} has no token {token_id[:40]!r}", tenant=tenant)
    connection.execute(delete(tokens).where(mine))
    return found


def listed(connection: Connection, tenant: TenantName) -> list[Token]:
    """A tenant's tokens, oldest first, those that have expired too."""
    found = connection.execute(select(tokens).where(tokens.c.tenant == tenant).order_by(tokens.c.created_at))
    return [_token(row) for row in found]


def stored(connection: Connection) -> dict[bytes, Token]:
    """All tokens by their digests."""
    return {row.digest: _token(row) for row in connection.execute(select(tokens))}


def note_used(connection: Connection, used: dict[str, float]) -> None:
    """Notes when tokens, by their ids, were used last."""
    if used:
        statement = update(tokens).where(tokens.c.token_id == bindparam("id")).values(used_at=bindparam("at"))
        connection.execute(statement, [{"id": token_id, "at": at} for token_id, at in used.items()])


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


def _token(row: Row[tuple[object, ...]]) -> Token:
    return Token(
        token_id=row.token_id,
        tenant=TenantName(row.tenant),
        name=row.name,
        scope=Scope(row.scope),
        certificate=row.certificate,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
    )
