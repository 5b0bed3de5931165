"""Which nodes are to be drained, in the shared database: asked for at any node, kept until it is taken back."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from cellyard_controller.cluster import leases
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.store.schema import meta

_PREFIX = "drain:"


def want(connection: Connection, name: str, *, wanted: bool) -> None:
    """Notes it; the node sees it when it renews its lease next. Raises InvalidRequest where there is no such node."""
    if leases.one(connection, name) is None:
        raise InvalidRequest(f"there is no node {name[:80]!r}")
    connection.execute(delete(meta).where(meta.c.key == _PREFIX + name))
    if wanted:
        connection.execute(insert(meta).values(key=_PREFIX + name, value=""))


def wanted(connection: Connection, name: str) -> bool:
    """Whether this node is to be drained."""
    return connection.execute(select(meta.c.key).where(meta.c.key == _PREFIX + name)).first() is not None
