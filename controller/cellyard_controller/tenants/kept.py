"""What tenants keep: how many notebooks, and how many bytes of all that quotas count."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cellyard_controller.ids import TenantName
from cellyard_controller.store.blobs import Blobs
from cellyard_controller.store.schema import artifacts, blob_uses, document_chunks, executions, notebooks, workflows


@dataclass(frozen=True, slots=True)
class Kept:
    """What one tenant keeps."""

    tenant: TenantName
    notebooks: int
    storage_bytes: int


def measured(connection: Connection, blobs: Blobs, tenant: TenantName) -> Kept:
    """What a tenant keeps now. A large part of an output, and an artifact's content, count once, however often.

    Executions count from their end on; the events of the last minutes, which streams read, do not count.
    """
    mine = select(notebooks.c.key).where(notebooks.c.tenant == tenant)
    count = connection.execute(select(func.count()).select_from(mine.subquery())).scalar_one()
    documents = select(func.sum(func.length(document_chunks.c.chunk))).where(document_chunks.c.notebook_key.in_(mine))
    runs = select(func.sum(executions.c.stored_bytes)).where(executions.c.notebook_key.in_(mine))
    sources = select(func.sum(workflows.c.stored_bytes)).where(workflows.c.tenant == tenant)
    about = select(func.sum(artifacts.c.stored_bytes)).where(artifacts.c.tenant == tenant)
    size = sum(int(connection.execute(query).scalar() or 0) for query in (documents, runs, sources, about))
    contents = select(artifacts.c.digest, artifacts.c.size).where(artifacts.c.tenant == tenant).distinct()
    sizes = {row.digest: row.size for row in connection.execute(contents)}
    digests = select(blob_uses.c.digest).where(blob_uses.c.notebook_key.in_(mine)).distinct()
    others = [digest for digest in connection.execute(digests).scalars() if digest not in sizes]
    size += blobs.total(connection, others)
    size += sum(sizes.values())
    return Kept(tenant, count, size)


def owners(connection: Connection) -> list[TenantName]:
    """Who keeps something."""
    tables = (notebooks, workflows, artifacts)
    names = {name for table in tables for name in connection.execute(select(table.c.tenant).distinct()).scalars()}
    return [TenantName(name) for name in sorted(names)]
