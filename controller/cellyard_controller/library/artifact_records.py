"""Artifacts in the store, without their contents. Each function is one step of somebody's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select

from cellyard_controller.config import LibraryConfig
from cellyard_controller.errors import ArtifactNameInvalid
from cellyard_controller.library.places import Place, too_many
from cellyard_controller.store.dialects import insert
from cellyard_controller.store.schema import artifacts

_KEYS = ("tenant", "workspace", "name")


@dataclass(frozen=True, slots=True)
class About:
    """What is said of an artifact that is to be kept; checked."""

    name: str
    type: str
    description: str
    metadata: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes that are kept of it beside the content."""
        return sum(len(text.encode()) for text in (self.name, self.description, json.dumps(self.metadata)))


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """One artifact."""

    name: str
    type: str
    description: str
    metadata: Mapping[str, Any]
    digest: str
    """Under which its content is."""
    size: int
    created_at: float


def put(connection: Connection, place: Place, record: ArtifactRecord, stored: int, limits: LibraryConfig) -> None:
    """Keeps one, in place of one of the same name; `stored`: About.size. Raises QuotaExceeded, ArtifactNameInvalid."""
    if connection.execute(select(artifacts.c.name).where(_here(place, record.name))).first() is None:
        _must_fit(connection, place, record.name)
        mine = select(func.count()).select_from(artifacts).where(artifacts.c.tenant == place.tenant)
        count = connection.execute(mine).scalar_one()
        if count >= limits.artifacts:
            raise too_many(place.tenant, "artifacts", f"{count:,}")
    values: dict[str, Any] = {
        "type": record.type,
        "description": record.description,
        "metadata": json.dumps(record.metadata),
        "digest": record.digest,
        "size": record.size,
        "stored_bytes": stored,
        "created_at": record.created_at,
    }
    new = insert(connection, artifacts).values(
        tenant=place.tenant, workspace=place.workspace, name=record.name, **values
    )
    connection.execute(new.on_conflict_do_update(index_elements=list(_KEYS), set_=values))


def find(connection: Connection, place: Place, name: str) -> ArtifactRecord | None:
    """The artifact of this name."""
    row = connection.execute(select(artifacts).where(_here(place, name))).first()
    return _record(row) if row else None


def listed(
    connection: Connection, place: Place, limit: int, after: str, max_bytes: int
) -> tuple[list[ArtifactRecord], bool]:
    """Artifacts by name, and whether there are others behind them: at most `limit`, that say about so many bytes."""
    query = select(artifacts).where(artifacts.c.tenant == place.tenant, artifacts.c.workspace == place.workspace)
    rows = connection.execute(query.where(artifacts.c.name > after).order_by(artifacts.c.name).limit(limit + 1))
    found: list[ArtifactRecord] = []
    with rows:
        for row in rows:
            if len(found) == limit or max_bytes <= 0:
                return found, True
            found.append(_record(row))
            max_bytes -= row.stored_bytes
    return found, False


def remove(connection: Connection, place: Place, name: str) -> bool:
    """Takes one away; False where there is none. Its content goes when nothing else refers to it."""
    return connection.execute(delete(artifacts).where(_here(place, name))).rowcount > 0


def _must_fit(connection: Connection, place: Place, name: str) -> None:
    """A name is an artifact's or a folder's, as where these are files. Raises ArtifactNameInvalid."""
    table = artifacts.c
    mine = select(table.name).where(table.tenant == place.tenant, table.workspace == place.workspace)
    behind = chr(ord("/") + 1)
    below = mine.where(table.name > f"{name}/", table.name < f"{name}{behind}")
    if connection.execute(below.limit(1)).first() is not None:
        raise ArtifactNameInvalid(f"{name!r} is a folder of artifacts, and cannot be an artifact too", name=name)
    parts = name.split("/")
    folders = ["/".join(parts[:count]) for count in range(1, len(parts))]
    found = connection.execute(mine.where(table.name.in_(folders)).limit(1)).scalar()
    if found is not None:
        raise ArtifactNameInvalid(f"{found!r} is an artifact, so nothing can be below it, such as {name!r}", name=name)


def _here(place: Place, name: str) -> Any:
    table = artifacts.c
    return (table.tenant == place.tenant) & (table.workspace == place.workspace) & (table.name == name)


def _record(row: Any) -> ArtifactRecord:
    metadata = json.loads(row.metadata)
    return ArtifactRecord(row.name, row.type, row.description, metadata, row.digest, row.size, row.created_at)
