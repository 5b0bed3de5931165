"""All rooms in memory: opened when somebody comes, recovered at start, dropped when nothing keeps them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from weakref import WeakValueDictionary

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from cellyard_controller.config import Config
from cellyard_controller.errors import (
    ExecutionNotFound,
    InvalidRequest,
    NotebookNotFound,
    Refused,
    Stopping,
    Unavailable,
)
from cellyard_controller.executions import blob_uses
from cellyard_controller.executions import records as execution_records
from cellyard_controller.executions.counts import Counts
from cellyard_controller.ids import NotebookKey, NotebookRef, TenantName
from cellyard_controller.library.serving import Library
from cellyard_controller.notebooks import opening, records, set_aside
from cellyard_controller.notebooks.document import Document, DocumentDamaged
from cellyard_controller.notebooks.document_versions import TooNew
from cellyard_controller.notebooks.opening import Stored
from cellyard_controller.notebooks.room import Room
from cellyard_controller.replicas.process import ReplicaWorker
from cellyard_controller.sandboxes import records as sandbox_records
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store, StoreDamaged, StoreFailed, requests
from cellyard_controller.store.blobs import is_digest
from cellyard_controller.store.requests import UNNAMED, Request
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit

Lost = tuple[EndReason, str]
LOST: Lost = (EndReason.RUNTIME_LOST, "the sandbox did not outlive the controller")

_SMALL = 4096
"""Bytes of a document that is loaded faster than another thread wakes up."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Seat:
    """A room and how many callers are in it."""

    room: Room
    task: asyncio.Task[None]
    users: int = 0
    sweep: asyncio.TimerHandle | None = field(default=None)


class Rooms:
    """Finds and opens rooms. One lock a notebook keeps two callers from opening it twice."""

    def __init__(
        self,
        store: Store,
        supervisor: Supervisor,
        seal: Seal,
        config: Config,
        replicas: ReplicaWorker,
        library: Library,
        allowances: Allowances,
        audit: Audit,
    ) -> None:
        self._store, self._supervisor, self._seal, self._config = store, supervisor, seal, config
        self.counts = Counts()
        """What happened to executions."""
        self._replicas, self._library, self._allowances, self._audit = replicas, library, allowances, audit
        self._seats: dict[NotebookRef, _Seat] = {}
        self._opening: WeakValueDictionary[NotebookRef, asyncio.Lock] = WeakValueDictionary()
        """Held while a notebook is opened or removed; each lives as long as somebody holds it or waits for it."""
        self._removals: set[asyncio.Task[None]] = set()
        self._last_busy = time.monotonic()

    @asynccontextmanager
    async def use(self, ref: NotebookRef, *, create: bool = True) -> AsyncIterator[Room]:
        """The notebook's room, kept in memory meanwhile. Raises NotebookNotFound where it must exist and does not."""
        seat = await self._enter(ref, create)
        try:
            yield seat.room
        finally:
            seat.users -= 1
            self._last_busy = time.monotonic()
            self._drop_later(ref, seat)

    async def recover(self, lost: Mapping[NotebookKey, Lost]) -> None:
        """Opens every notebook that has something to go on with, and gives adopted sandboxes back to theirs.

        `lost`: why the sandboxes of notebooks ended that are gone.
        """
        unfinished = await self._store.read(execution_records.notebooks_with_unfinished)
        living = await self._store.read(sandbox_records.living)
        claimed = {r.notebook: r for r in living if r.state is SandboxState.CLAIMED and r.notebook is not None}
        for key in sorted(unfinished | claimed.keys()):
            has = claimed.get(key)
            sandbox = self._supervisor.find(has.sandbox_id) if has else None
            committed = has.committed_number if has else 0
            try:
                stored = await self._store.read(partial(opening.by_key, key=key))
                seat = await self._open(stored, sandbox, committed, lost.get(key, LOST))
            except StoreDamaged as damaged:  # the others go on; what belongs to this one is left as it is
                log.error("a notebook cannot be read", key=key, why=str(damaged))
                continue
            ref = stored.record.ref
            if sandbox is not None and sandbox.end is None:
                sandbox.notebook = ref
                await sandbox.link.open()
            self._drop_later(ref, seat)

    async def list(
        self, tenant: TenantName, limit: int, after: str, labels: Mapping[str, str]
    ) -> list[records.NotebookRecord]:
        """A tenant's notebooks: those that have these labels, where an empty value stands for any."""
        find = partial(records.listed, tenant=tenant, limit=limit, after=after, labels=labels)
        return await self._store.read(find)

    async def set_labels(
        self, ref: NotebookRef, labels: Mapping[str, str], remove: Collection[str], request: Request
    ) -> dict[str, str]:
        """Sets and removes labels of a notebook, which comes into being with them; once for a request.

        Raises InvalidRequest.
        """
        record = (await self._stored(ref, create=bool(labels))).record

        def write(connection: Connection) -> dict[str, str]:
            found = records.set_labels(connection, key=record.key, labels=labels, remove=remove)
            if request.request_id:
                requests.remember(connection, tenant=ref.tenant, request=request, answer=json.dumps(found))
            return found

        try:
            return await self._store.write(write)
        except IntegrityError:
            answer = await requests.answer_to(self._store, ref.tenant, request)
            return dict(json.loads(answer or "{}"))

    async def blob(self, ref: NotebookRef, digest: str) -> FileIO:
        """A large part of the notebook's outputs, to be read and closed.

        Raises NotebookNotFound, InvalidRequest for what is no digest, ExecutionNotFound where no execution of this
        notebook refers to it (any more), whoever else does.
        """
        if not is_digest(digest):
            raise InvalidRequest("a digest is sha256: and 64 hexadecimal digits", digest=digest[:80])

        def find(connection: Connection) -> bool:
            record = records.find(connection, ref)
            if record is None:
                raise NotebookNotFound(f"notebook {ref.notebook_id!r} not found", notebook_id=ref.notebook_id)
            return blob_uses.in_use(connection, record.key, digest)

        gone = ExecutionNotFound(
            f"no execution of notebook {ref.notebook_id!r} shows {digest} (any more)", digest=digest
        )
        if not await self._store.read(find):
            raise gone
        try:
            return await asyncio.to_thread(self._store.blobs.open_file, digest)
        except FileNotFoundError:
            if await self._store.read(find):  # else it was removed just now
                log.error("a large part of an output is missing on disk", notebook=ref.notebook_id, digest=digest)
            raise gone from None
        except OSError as failed:
            raise Unavailable(f"{digest} cannot be read: {failed.strerror}") from failed

    async def delete(self, ref: NotebookRef, request: Request = UNNAMED) -> None:
        """Ends the kernel and removes all of the notebook, once for a request. Raises NotebookNotFound."""
        if await requests.answer_to(self._store, ref.tenant, request) is not None:
            return
        async with self.use(ref, create=False) as room:
            await room.driving.shut_down(EndReason.SHUTDOWN, "the notebook was deleted")
            # Whoever asked for it may go: a room that was half ended would not have written what it knows.
            removal = asyncio.ensure_future(self._remove(ref, room, request))
            self._removals.add(removal)
            removal.add_done_callback(self._removed)
            await asyncio.shield(removal)

    async def close(self) -> None:
        """Commits what is left in every room and ends them."""
        await asyncio.gather(*self._removals, return_exceptions=True)
        seats, self._seats = list(self._seats.values()), {}
        await asyncio.gather(*(self._end(seat) for seat in seats))
        for seat in seats:
            seat.room.watchers.end(Stopping("the controller is stopping"))

    @property
    def loaded(self) -> int:
        """Notebooks in memory."""
        return len(self._seats)

    @property
    def waiting(self) -> int:
        """Executions of all notebooks that wait for their turn."""
        return sum(seat.room.waiting for seat in self._seats.values())

    @property
    def unused_since(self) -> float | None:
        """Since when (monotonic time) nobody is here and no room holds anything; None while somebody is."""
        return None if self._seats else self._last_busy

    # Inside

    def _lock(self, ref: NotebookRef) -> asyncio.Lock:
        return self._opening.setdefault(ref, asyncio.Lock())

    def _removed(self, removal: asyncio.Task[None]) -> None:
        self._removals.discard(removal)
        failed = removal.exception()
        if failed is not None and not isinstance(failed, Refused):  # nobody may be there to be told
            log.error("a notebook could not be deleted", why=str(failed))

    async def _remove(self, ref: NotebookRef, room: Room, request: Request) -> None:
        async with self._lock(ref):  # else somebody opens what is about to go
            seat = self._seats.get(ref)
            if seat is None or seat.room is not room:
                raise NotebookNotFound(f"notebook {ref.notebook_id!r} was deleted", notebook_id=ref.notebook_id)
            del self._seats[ref]
            over: Refused = Stopping(f"notebook {ref.notebook_id!r} could not be deleted")
            try:
                await self._end(seat)
                await self._store.write(partial(records.remove, key=room.key))
                await self._remember(ref, request)
                await asyncio.to_thread(set_aside.forget, self._config.data, room.key)
                self._allowances.measure_again(ref.tenant)
                over = NotebookNotFound(f"notebook {ref.notebook_id!r} was deleted", notebook_id=ref.notebook_id)
            finally:
                room.watchers.end(over)

    async def _remember(self, ref: NotebookRef, request: Request) -> None:
        if request.request_id:
            try:
                await self._store.write(partial(requests.remember, tenant=ref.tenant, request=request, answer=""))
            except IntegrityError:
                pass  # its id was taken meanwhile; what is removed stays removed

    async def _enter(self, ref: NotebookRef, create: bool) -> _Seat:
        async with self._lock(ref):
            seat = self._seats.get(ref)
            if seat is None:
                seat = await self._open(await self._stored(ref, create))
            seat.users += 1
        return seat

    async def _stored(self, ref: NotebookRef, create: bool) -> Stored:
        found = await self._store.read(partial(opening.find, ref=ref))
        if found is not None:
            return found
        if not create:
            raise NotebookNotFound(f"notebook {ref.notebook_id!r} not found", notebook_id=ref.notebook_id)
        document = Document.new().save()
        await self._allowances.keep(ref.tenant, len(document))
        admit = partial(self._allowances.notebook, ref.tenant)
        try:
            return await self._store.write(partial(opening.find_or_add, ref=ref, document=document, admit=admit))
        except StoreFailed as failed:
            raise Unavailable(str(failed)) from failed

    async def _open(
        self, stored: Stored, sandbox: Sandbox | None = None, committed: int = 0, lost: Lost = LOST
    ) -> _Seat:
        room = Room(
            stored,
            await self._document(stored),
            store=self._store,
            supervisor=self._supervisor,
            seal=self._seal,
            config=self._config,
            replicas=self._replicas,
            library=self._library,
            counts=self.counts,
            allowances=self._allowances,
            audit=self._audit,
        )
        await room.recover(stored.unfinished, sandbox, committed, lost)
        seat = _Seat(room, asyncio.ensure_future(room.run()))
        self._seats[stored.record.ref] = seat
        return seat

    async def _document(self, stored: Stored) -> Document | Unavailable:
        """The notebook's document, or why there is none to be had: one that is damaged is set aside."""
        record, notebook_id = stored.record, stored.record.ref.notebook_id
        chunks: list[bytes] = []
        try:
            if isinstance(stored.chunks, StoreDamaged):
                raise stored.chunks
            chunks = stored.chunks
            if sum(map(len, chunks)) <= _SMALL:
                return Document.load(chunks)
            return await asyncio.to_thread(Document.load, chunks)
        except TooNew as new:
            return Unavailable(f"notebook {notebook_id!r} needs a later release: {new}", notebook_id=notebook_id)
        except DocumentDamaged as damaged:
            why, then = str(damaged), "deleting the notebook removes all of it"
        except StoreDamaged as damaged:
            why, then = str(damaged), "the database itself is to be repaired, while the controller is stopped"
            chunks = await self._store.read(partial(records.readable_chunks, key=record.key))
        try:
            keep = partial(set_aside.keep, self._config.data, record.key, notebook_id, chunks)
            kept = str(await asyncio.to_thread(keep))
        except OSError as failed:
            kept = f"the database alone ({failed.strerror})"
        log.error("a document is damaged", notebook=notebook_id, tenant=record.ref.tenant, why=why, set_aside=kept)
        return Unavailable(
            f"the document of notebook {notebook_id!r} is damaged: {why}. What is stored of it is kept in {kept}; "
            f"its executions can be read; {then}",
            notebook_id=notebook_id,
            set_aside=kept,
        )

    def _drop_later(self, ref: NotebookRef, seat: _Seat) -> None:
        """A room that nobody is in and that is at rest goes; one that is not is looked at again later."""
        if seat.users or self._seats.get(ref) is not seat:
            return
        if seat.room.at_rest:
            del self._seats[ref]
            self._last_busy = time.monotonic()
            seat.room.stop()
        else:
            if seat.sweep is not None:
                seat.sweep.cancel()
            loop = asyncio.get_running_loop()
            seat.sweep = loop.call_later(self._config.sessions.grace, self._drop_later, ref, seat)

    async def _end(self, seat: _Seat) -> None:
        if seat.sweep is not None:
            seat.sweep.cancel()
        seat.room.stop()
        await seat.task
        await seat.room.close()
