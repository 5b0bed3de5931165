"""What a `Client` shows of tenants: what they may have, their tokens, and what they have used. Frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from cellyard._translate import moment
from cellyard_proto.v1 import tenants_pb2

QUOTAS = {
    "sandboxes": "sandboxes",
    "memory": "memory_bytes",
    "cpu": "cpu",
    "queued": "queued",
    "notebooks": "notebooks",
    "storage": "storage_bytes",
    "rate": "rate",
}
"""The keys of quotas, and the names of their fields in the protocol."""


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """One tenant."""

    name: str
    created_at: datetime | None
    tokens: int
    """In force."""
    quotas: Mapping[str, int | float | None]
    """What it may have: sandboxes, memory (bytes), cpu, queued, notebooks, storage (bytes), rate; None is unlimited."""
    quotas_set: tuple[str, ...]
    """The keys of those that were set for it; the others are the controller's defaults."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token, the only time that it is seen. `str()` and `repr()` do not show it."""

    token: str
    token_id: str
    """By which it is listed and revoked; no secret."""

    def __repr__(self) -> str:
        return f"IssuedToken(token_id={self.token_id!r})"


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One token of a tenant, without its secret."""

    token_id: str
    name: str
    scope: str
    """ "read", "run" or "full"."""
    certificate: str | None
    """A name in the client's certificate without which it is void."""
    created_at: datetime | None
    expires_at: datetime | None
    used_at: datetime | None
    """Its last use, to the minute."""


@dataclass(frozen=True, slots=True)
class DayOfUsage:
    """What one tenant's executions used that ended on one day (UTC)."""

    tenant: str
    day: date
    executions: int
    cpu_s: float
    """Processor time, in seconds."""
    wall_s: float
    """Seconds from their starts to their ends."""
    peak_memory_bytes: int
    """The highest of any execution."""
    output_bytes: int
    """Of what they have shown."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What one tenant keeps now."""

    tenant: str
    notebooks: int
    storage_bytes: int
    """Documents, sources, outputs, workflows and artifacts."""


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What was used, by tenant and day, and what is kept."""

    days: tuple[DayOfUsage, ...]
    kept: tuple[Kept, ...]


def tenant_info(message: tenants_pb2.Tenant) -> TenantInfo:
    """From the protocol's message."""
    quotas = message.quotas
    limits: dict[str, Any] = {
        key: getattr(quotas, field) if quotas.HasField(field) else None  # type: ignore[arg-type]
        for key, field in QUOTAS.items()
    }
    created = moment(message.created_at)
    return TenantInfo(message.name, created, message.tokens, limits, tuple(message.quotas_set))


def token_info(message: tenants_pb2.Token) -> TokenInfo:
    """From the protocol's message."""
    return TokenInfo(
        message.token_id,
        message.name,
        message.scope,
        message.certificate or None,
        moment(message.created_at),
        moment(message.expires_at),
        moment(message.used_at),
    )


def tenant_usage(message: tenants_pb2.GetUsageResponse) -> TenantUsage:
    """From the protocol's message."""
    days = (
        DayOfUsage(
            day.tenant,
            date.fromisoformat(day.day),
            day.executions,
            day.cpu_s,
            day.wall_s,
            day.peak_memory_bytes,
            day.output_bytes,
        )
        for day in message.days
    )
    kept = (Kept(each.tenant, each.notebooks, each.storage_bytes) for each in message.kept)
    return TenantUsage(tuple(days), tuple(kept))
