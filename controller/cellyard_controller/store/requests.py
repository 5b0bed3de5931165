"""Requests that were carried out, so that a repeated one is answered and not carried out again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, delete, insert, select

from cellyard_controller.clock import steady
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import TenantName
from cellyard_controller.store.database import Store
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import requests

KEPT_S = 24 * 3600.0
"""How long a request id is remembered."""


@dataclass(frozen=True, slots=True)
class Request:
    """A mutating request."""

    request_id: str
    """Empty where the client gave none: then nothing is remembered."""
    digest: bytes
    """Of the content: the same id with other content is refused."""


UNNAMED = Request("", b"")
"""No request of a client's, or one without an id."""

_REMEMBER = Hot(insert(requests))


def remember(connection: Connection, tenant: TenantName, request: Request, answer: str) -> None:
    """Notes that a request was carried out. A repeated id is a conflict of the primary key."""
    _REMEMBER(
        connection,
        {
            "tenant": tenant,
            "request_id": request.request_id,
            "digest": request.digest,
            "answer": answer,
            "at": steady(),
        },
    )


def answered(connection: Connection, tenant: TenantName, request_id: str) -> tuple[bytes, str] | None:
    """Digest and answer of a request that was carried out."""
    row = connection.execute(
        select(requests.c.digest, requests.c.answer).where(
            requests.c.tenant == tenant, requests.c.request_id == request_id
        )
    ).first()
    return (row.digest, row.answer) if row else None


async def answer_to(store: Store, tenant: TenantName, request: Request) -> str | None:
    """What a tenant's request was answered before. Raises InvalidRequest where its id came with other content."""
    if not request.request_id:
        return None
    known = await store.read(partial(answered, tenant=tenant, request_id=request.request_id))
    if known is None:
        return None
    digest, answer = known
    if digest != request.digest:
        raise InvalidRequest(
            f"request id {request.request_id!r} was used with other content", request_id=request.request_id
        )
    return answer


def forget(connection: Connection, before: float) -> None:
    """Forgets requests of long ago."""
    connection.execute(delete(requests).where(requests.c.at < before))
