"""Tenants' artifacts: written piece by piece, whole or not at all, and read as they were at one moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from io import FileIO

import structlog
from sqlalchemy import Connection

from cellyard_controller import faults
from cellyard_controller.config import LibraryConfig
from cellyard_controller.errors import ArtifactInvalid, ArtifactNameInvalid, ArtifactNotFound, Unavailable
from cellyard_controller.library import artifact_records as records
from cellyard_controller.library.artifact_records import About, ArtifactRecord
from cellyard_controller.library.places import Place, change_once
from cellyard_controller.store import Store
from cellyard_controller.store.blobs import Incoming
from cellyard_controller.store.opened import opened
from cellyard_controller.store.requests import Request
from cellyard_controller.tenants.allowances import Allowances
from cellyard_proto import amounts
from cellyard_proto.codemode import artifacts as checks
from cellyard_proto.codemode.errors import ArtifactDataError, ArtifactNameError

PAGE, PAGE_BYTES = 1_000, 4 * 1024 * 1024
"""Artifacts of one page of a list, and about how many bytes are said of them, at most."""
_TRIES = 10

log = structlog.get_logger()


def about(name: object, type_: object, description: object, metadata: object) -> About:
    """What is said of an artifact, checked. Raises ArtifactNameInvalid, ArtifactInvalid."""
    try:
        if not isinstance(type_, str) or type_ not in checks.TYPES:
            raise ArtifactDataError(f"an artifact is one of {checks.TYPES}, not {type_!r:.100}")
        checked = checks.check_metadata(metadata)
        return About(named(name), type_, checks.check_description(description), checked)
    except ArtifactDataError as wrong:
        raise ArtifactInvalid(str(wrong)) from None


def named(name: object) -> str:
    """An artifact's name. Raises ArtifactNameInvalid."""
    try:
        return checks.check_name(name)
    except ArtifactNameError as wrong:
        raise ArtifactNameInvalid(str(wrong)) from None


class Writing:
    """An artifact on its way in. Used by one task."""

    def __init__(self, incoming: Incoming, name: str, size: int) -> None:
        self.incoming, self._name, self._size = incoming, name, size

    async def add(self, content: bytes) -> None:
        """More of it. Raises ArtifactInvalid past the announced size, StoreFailed."""
        if self.incoming.size + len(content) > self._size:
            raise ArtifactInvalid(f"artifact {self._name!r} has more than the {self._size} bytes that were announced")
        await asyncio.to_thread(self.incoming.write, content)

    async def finish(self) -> str:
        """It is whole and on disk; its digest. Raises ArtifactInvalid where some is missing, StoreFailed."""
        if self.incoming.size != self._size:
            raise ArtifactInvalid(
                f"artifact {self._name!r} ended after {self.incoming.size} of {self._size} bytes, and is not kept"
            )
        return await asyncio.to_thread(self.incoming.finish)


class Artifacts:
    """The artifacts of all tenants."""

    def __init__(self, store: Store, allowances: Allowances, limits: LibraryConfig) -> None:
        self._store, self._allowances, self._limits = store, allowances, limits

    @property
    def max_size(self) -> int:
        """Bytes of one."""
        return self._limits.artifact

    async def page(self, place: Place, limit: int = PAGE, after: str = "") -> tuple[list[ArtifactRecord], bool]:
        """Artifacts by name, and whether there are others behind them."""
        limit = min(limit, PAGE)
        return await self._store.read(
            partial(records.listed, place=place, limit=limit, after=after, max_bytes=PAGE_BYTES)
        )

    async def find(self, place: Place, name: str) -> ArtifactRecord | None:
        """One of them, None where there is none. Raises ArtifactNameInvalid."""
        return await self._store.read(partial(records.find, place=place, name=named(name)))

    async def get(self, place: Place, name: str) -> ArtifactRecord:
        """One of them. Raises ArtifactNotFound, ArtifactNameInvalid."""
        found = await self.find(place, name)
        if found is None:
            raise ArtifactNotFound(f"Artifact {name!r} not found", name=name)
        return found

    @asynccontextmanager
    async def writing(self, place: Place, said: About, size: int) -> AsyncIterator[Writing]:
        """Takes in a content of so many bytes; `keep` it within the block. Raises ArtifactInvalid, QuotaExceeded."""
        if not 0 <= size <= self._limits.artifact:
            limit = amounts.size(self._limits.artifact)
            raise ArtifactInvalid(f"artifact {said.name!r} has {size} bytes; at most {limit} can be kept")
        async with self._allowances.coming(place.tenant, size + said.size):
            incoming = await opened(self._store.blobs.incoming)
            try:
                yield Writing(incoming, said.name, size)
            finally:
                await asyncio.shield(asyncio.to_thread(incoming.close))

    async def keep(self, place: Place, said: About, writing: Writing, digest: str, request: Request) -> ArtifactRecord:
        """Keeps what has come whole, in place of one of the same name, once for a request. Raises QuotaExceeded."""
        blobs = self._store.blobs
        incoming = writing.incoming

        def put(connection: Connection) -> float:
            blobs.take(connection, incoming, digest)
            faults.point("artifact-stored")
            record = _record(said, digest, incoming.size, time.time())
            records.put(connection, place, record, said.size, self._limits)
            return record.created_at

        faults.point("artifact-received")
        created_at = await change_once(self._store, place.tenant, request, put)
        faults.point("artifact-kept")
        return _record(said, digest, incoming.size, created_at)

    async def read(self, place: Place, name: str) -> tuple[ArtifactRecord, FileIO]:
        """One of them and its content, to be read and closed. Raises ArtifactNotFound, ArtifactNameInvalid."""
        found = await self.get(place, name)
        for _ in range(_TRIES):
            try:
                return found, await opened(partial(self._store.blobs.open_file, found.digest))
            except FileNotFoundError:
                found = await self.get(place, name)  # it was replaced just now, and the old content collected
            except OSError as failed:
                raise Unavailable(f"artifact {name!r} cannot be read: {failed.strerror}") from failed
        log.error("an artifact's content is missing on disk", tenant=place.tenant, name=name, digest=found.digest)
        raise Unavailable(f"artifact {name!r} cannot be read: its content is missing")

    async def remove(self, place: Place, name: str, request: Request) -> bool:
        """Takes one away, once for a request; False where there was none. Raises ArtifactNameInvalid."""
        remove = partial(records.remove, place=place, name=named(name))
        removed = await change_once(self._store, place.tenant, request, remove)
        self._allowances.measure_again(place.tenant)
        return bool(removed)


def _record(said: About, digest: str, size: int, created_at: float) -> ArtifactRecord:
    metadata: Mapping[str, object] = said.metadata
    return ArtifactRecord(said.name, said.type, said.description, metadata, digest, size, created_at)
