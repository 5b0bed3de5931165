"""Where a tenant's things are kept, and what a change of them has in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from cellyard_controller.errors import InvalidRequest, QuotaExceeded, Refused
from cellyard_controller.ids import TenantName
from cellyard_controller.store import Store, requests
from cellyard_controller.store.requests import Request

_WORKSPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Place:
    """A workspace of a tenant."""

    tenant: TenantName
    workspace: str = ""
    """Empty for the one without a name."""

    def __post_init__(self) -> None:
        if self.workspace and _WORKSPACE.fullmatch(self.workspace) is None:
            raise InvalidRequest(
                f"{self.workspace[:80]!r} is no workspace: 1 to 64 characters of A-Z, a-z, 0-9, _ and -",
                workspace_id=self.workspace[:80],
            )


async def change_once(store: Store, tenant: TenantName, request: Request, work: Callable[[Connection], Any]) -> Any:
    """Commits a change, once for a request: a repeated one gets the first one's answer, which JSON holds.

    Raises what `work` does, InvalidRequest where the request's id came with other content, StoreFailed.
    """
    try:
        return await store.write(partial(_change, tenant=tenant, request=request, work=work))
    except (Refused, IntegrityError):
        answer = await requests.answer_to(store, tenant, request)
        if answer is None:
            raise
        return json.loads(answer)


def _change(connection: Connection, tenant: TenantName, request: Request, work: Callable[[Connection], Any]) -> Any:
    answer = work(connection)
    if request.request_id:
        requests.remember(connection, tenant, request, json.dumps(answer))
    return answer


def too_many(tenant: TenantName, what: str, limit: str) -> QuotaExceeded:
    """A tenant has as much as the configuration allows."""
    return QuotaExceeded(
        f"tenant {tenant!r} keeps {limit} {what} already, and no more can be kept; delete some first",
        retry_after_s=60.0,
        tenant=tenant,
        quota=f"library.{what}",
    )
