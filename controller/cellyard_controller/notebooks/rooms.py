"""All rooms in memory: opened when somebody comes, recovered at start, dropped when nothing keeps them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from typing import Any
from weakref import WeakValueDictionary

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from cellyard_controller.changes import Changes
from cellyard_controller.config import Config
from cellyard_controller.errors import (
    Moved,
    NotebookNotFound,
    Refused,
    Stopping,
)
from cellyard_controller.executions import records as execution_records
from cellyard_controller.executions.counts import Counts
from cellyard_controller.ids import NotebookKey, NotebookRef, TenantName
from cellyard_controller.library.serving import Library
from cellyard_controller.notebooks import large_parts, loading, opening, records, set_aside
from cellyard_controller.notebooks.document import Document
from cellyard_controller.notebooks.opening import Stored
from cellyard_controller.notebooks.ownership import Ownership
from cellyard_controller.notebooks.room import Room, RoomView
from cellyard_controller.replicas.process import ReplicaWorker
from cellyard_controller.sandboxes import records as sandbox_records
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.records import SandboxRecord
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store, StoreDamaged, StoreFailed, requests
from cellyard_controller.store.errors import refusal
from cellyard_controller.store.requests import UNNAMED, Request
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tracing import Traces

Lost = tuple[EndReason, str]
LOST: Lost = (EndReason.RUNTIME_LOST, "the sandbox did not outlive the controller")
LOST_ELSEWHERE: Lost = (EndReason.NODE_LOST, "the node that it ran on has lost the notebook")

_ASK_AGAIN_S = 0.5
"""Seconds after which a notebook that has moved may have its next owner."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Seat:
    """A room and how many callers are in it."""

    room: Room
    task: asyncio.Task[None]
    users: int = 0
    sweep: asyncio.TimerHandle | None = field(default=None)


class Rooms:
    """Finds and opens rooms. One lock a notebook keeps two callers from opening it twice.

    A room is in memory only while its notebook is this node's: that is asked before anything of it is read from the
    store, and told when the room has gone.
    """

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
        traces: Traces | None,
        ownership: Ownership,
    ) -> None:
        self._store, self._supervisor, self._seal, self._config = store, supervisor, seal, config
        self.counts = Counts()
        """What happened to executions."""
        self.changes = Changes()
        """Of what `views` tells."""
        self._replicas, self._library, self._allowances, self._audit = replicas, library, allowances, audit
        self._traces, self._ownership = traces, ownership
        self._seats: dict[NotebookRef, _Seat] = {}
        self._opening: WeakValueDictionary[NotebookRef, asyncio.Lock] = WeakValueDictionary()
        """Held while a notebook is opened or removed; each lives as long as somebody holds it or waits for it."""
        self._removals: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        """What is given up."""
        self._not_handed_over: set[NotebookKey] = set()
        """What was to be, is closed, and is perhaps this node's still."""
        self._disowned = 0
        """How often notebooks were lost: what was being opened meanwhile may be one of them."""
        self._last_busy = time.monotonic()

    @asynccontextmanager
    async def use(self, ref: NotebookRef, *, create: bool = True) -> AsyncIterator[Room]:
        """The notebook's room, kept in memory meanwhile.

        Raises NotebookNotFound where it must exist and does not, NotOwner and Unavailable as Ownership.own does.
        """
        seat = await self._enter(ref, create)
        try:
            yield seat.room
        finally:
            seat.users -= 1
            self._last_busy = time.monotonic()
            self._drop_later(ref, seat)

    async def new(self, ref: NotebookRef) -> Callable[[Connection], object]:
        """What adds this notebook. Raises QuotaExceeded, StoreFailed; so may it, QuotaExceeded."""
        return partial(records.add, ref=ref, **await self._new(ref))

    async def recover(self, lost: Mapping[NotebookKey, Lost], mine: Collection[NotebookKey] | None = None) -> None:
        """Opens every notebook that has something to go on with, and gives adopted sandboxes back to theirs.

        `lost`: why the sandboxes of notebooks ended that are gone. `mine`: those that are this node's; None: all.
        Of a restored database everything is lost that had not ended.
        """
        all_lost: Lost | None = None
        if self._store.restored:
            log.info("restored", backup=self._store.restored)
            message = f"the controller was restored from a backup of {self._store.restored}; it may have run since"
            all_lost = EndReason.NODE_LOST, message
        unfinished = await self._store.read(execution_records.notebooks_with_unfinished)
        if mine is not None:
            unfinished &= set(mine)
        living = await self._store.read(partial(sandbox_records.living, node=self._store.node))
        claimed = {r.notebook: r for r in living if r.state is SandboxState.CLAIMED and r.notebook is not None}
        for key in sorted(unfinished | claimed.keys()):
            why = all_lost or lost.get(key, LOST)
            await self._recover(key, why, claimed.get(key), restored=all_lost is not None)
        if all_lost is not None:
            await self._store.saw_to_restored()

    async def take_over(self, keys: Collection[NotebookKey], lost: Lost) -> None:
        """Opens notebooks that another node has lost: what ran there ends for this reason, what only waited runs here.

        Those that are another node's again are left alone.
        """
        for key in keys:
            await self._recover(key, lost)

    async def disown(self, refs: Collection[NotebookRef] | None = None) -> None:
        """These notebooks, or all, are this node's no more. Their rooms write nothing from now on, whoever is in them
        is told, and their sandboxes are being removed, before this waits for anything: for what was in hand."""
        self._disowned += 1
        lost = self._seats.keys() if refs is None else self._seats.keys() & set(refs)
        seats = {ref: self._seats.pop(ref) for ref in list(lost)}
        for ref, seat in seats.items():
            seat.room.abandon(_moved(ref))
        self.changes.tell()
        await asyncio.gather(*(self._finish(ref, seat) for ref, seat in seats.items()))

    async def pass_on(self, moves: Mapping[NotebookRef, str]) -> None:
        """Gives notebooks that wait for room here to nodes that have some, where they do still. What waits in them
        runs there; whoever is in them is told to ask again. Raises Refused, StoreFailed: what is left then, and still
        this node's, goes on here with the next call."""
        for ref, to in moves.items():
            await self._pass_on(ref, to)
        for key in list(self._not_handed_over):
            await self._recover(key, LOST_ELSEWHERE)
            self._not_handed_over.discard(key)

    async def make_way(self) -> None:
        """Lets go of the notebooks that nobody uses, with kernels that are idle: this node is being emptied."""
        for sandbox in self._supervisor.sandboxes():
            seat = self._seats.get(sandbox.notebook) if sandbox.notebook is not None else None
            if seat is not None and not seat.users and not seat.room.wanted and sandbox.owner is not None:
                await sandbox.owner.evict(sandbox.sandbox_id, "it was idle, and its node is being emptied")
        for ref, seat in list(self._seats.items()):
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

        Raises InvalidRequest, and as `use`.
        """
        async with self._lock(ref):
            await self._own(ref, create=bool(labels))
            try:
                key = (await self._stored(ref, create=bool(labels))).record.key

                def write(connection: Connection) -> dict[str, str]:
                    found = records.set_labels(connection, key=key, labels=labels, remove=remove)
                    if request.request_id:
                        requests.remember(connection, tenant=ref.tenant, request=request, answer=json.dumps(found))
                    return found

                return await self._store.write(write)
            except IntegrityError:
                answer = await requests.answer_to(self._store, ref.tenant, request)
                return dict(json.loads(answer or "{}"))
            finally:
                if ref not in self._seats:
                    await self._give_up(ref)

    async def blob(self, ref: NotebookRef, digest: str) -> FileIO:
        """A large part of the notebook's outputs, to be read and closed, whosever the notebook is.

        Raises NotebookNotFound, InvalidRequest for what is no digest, ExecutionNotFound where no execution of this
        notebook refers to it (any more), whoever else does.
        """
        return await large_parts.opened_part(self._store, ref, digest)

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
        await asyncio.gather(*self._removals, *self._leaving, return_exceptions=True)
        seats, self._seats = self._seats, {}
        await asyncio.gather(*(self._end(seat) for seat in seats.values()))
        for seat in seats.values():
            seat.room.watchers.end(Stopping("the controller is stopping"))
        await asyncio.gather(*(self._give_up(ref) for ref, seat in seats.items() if seat.room.leaves_nothing))

    @property
    def loaded(self) -> int:
        """Notebooks in memory."""
        return len(self._seats)

    def views(self) -> tuple[RoomView, ...]:
        """The notebooks in memory."""
        return tuple(seat.room.standing for seat in self._seats.values())

    @property
    def waiting(self) -> int:
        """Executions of all notebooks that wait for their turn."""
        return sum(seat.room.waiting for seat in self._seats.values())

    @property
    def sessions(self) -> int:
        """Sessions that are there, in all notebooks."""
        return sum(seat.room.sessions for seat in self._seats.values())

    @property
    def waiting_by_tenant(self) -> Counter[TenantName]:
        """Executions that wait for their turn."""
        found: Counter[TenantName] = Counter()
        for ref, seat in self._seats.items():
            if seat.room.waiting:
                found[ref.tenant] += seat.room.waiting
        return found

    @property
    def unfinished(self) -> int:
        """Executions of all notebooks that have not ended."""
        return sum(seat.room.unfinished for seat in self._seats.values())

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
            self.changes.tell()
            over: Refused = Stopping(f"notebook {ref.notebook_id!r} could not be deleted")
            try:
                await self._end(seat)
                await self._store.write(partial(records.remove, key=room.key))
                await self._give_up(ref)
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

                async def first() -> _Seat:
                    # Work that is open was another node's, and has no sandbox: of this one's all is in memory.
                    return await self._open(await self._stored(ref, create), lost=LOST_ELSEWHERE)

                seat = await self._owned(ref, create, first)
            seat.users += 1
        return seat

    async def _owned(self, ref: NotebookRef, create: bool, first: Callable[[], Awaitable[_Seat]]) -> _Seat:
        """A room of a notebook that is this node's, and was all the time while it was opened."""
        before = self._disowned
        await self._own(ref, create)
        try:
            seat = await first()
            if before != self._disowned:
                del self._seats[ref]
                seat.room.abandon(_moved(ref))
                await self._end(seat)
                raise _moved(ref)
        except BaseException:  # whoever asked may have gone, too
            self._leave_later(ref)
            raise
        return seat

    async def _own(self, ref: NotebookRef, create: bool) -> None:
        if ref not in self._seats:
            await self._ownership.own(ref, create=create)

    async def _pass_on(self, ref: NotebookRef, to: str) -> None:
        async with self._lock(ref):
            seat = self._seats.get(ref)
            if seat is None or not await seat.room.pass_on(_moved(ref)):
                return
            if self._seats.get(ref) is not seat:
                return  # it was lost meanwhile
            key = seat.room.key
            self._not_handed_over.add(key)
            del self._seats[ref]
            self.changes.tell()
            await self._end(seat)
            if await self._ownership.hand_over(ref, key, to):
                self._not_handed_over.discard(key)
                log.info("a notebook that waits for room goes to another node", notebook_id=ref.notebook_id, to=to)

    async def _give_up(self, ref: NotebookRef) -> None:
        try:
            await self._ownership.give_up(ref)
        except (Refused, StoreFailed) as failed:  # it stays this node's, which may open it again or lose it
            log.warning("a notebook is not given up", notebook_id=ref.notebook_id, why=str(failed))

    async def _recover(
        self, key: NotebookKey, lost: Lost, has: SandboxRecord | None = None, *, restored: bool = False
    ) -> None:
        """Opens a notebook that has something to go on with; `has` is the sandbox that the store says it has."""
        sandbox = self._supervisor.find(has.sandbox_id) if has else None
        committed = has.committed_number if has else 0
        try:
            ref = (await self._store.read(partial(records.by_key, key=key))).ref
            async with self._lock(ref):
                if ref in self._seats:
                    return  # somebody was faster

                async def first() -> _Seat:
                    stored = await self._store.read(partial(opening.by_key, key=key))
                    return await self._open(stored, sandbox, committed, lost, restored=restored)

                seat = await self._owned(ref, False, first)
        except StoreDamaged as damaged:  # the others go on; what belongs to this one is left as it is
            log.error("a notebook cannot be read", key=key, why=str(damaged))
            return
        except Refused as elsewhere:  # whoever has it, or opens it next, sees to it
            log.info("a notebook is not this node's", key=key, why=str(elsewhere))
            if sandbox is not None:
                self._supervisor.let_go(sandbox.sandbox_id, *LOST_ELSEWHERE)
            return
        if sandbox is not None and sandbox.end is None:
            sandbox.notebook = ref
            await sandbox.link.open()
        self._drop_later(ref, seat)

    async def _new(self, ref: NotebookRef) -> dict[str, Any]:
        """What a new notebook is added with: its document, and what admits it. Raises QuotaExceeded, StoreFailed."""
        document = Document.new().save()
        await self._allowances.keep(ref.tenant, len(document))
        return {"document": document, "admit": partial(self._allowances.notebook, ref.tenant)}

    async def _stored(self, ref: NotebookRef, create: bool) -> Stored:
        found = await self._store.read(partial(opening.find, ref=ref))
        if found is not None:
            return found
        if not create:
            raise NotebookNotFound(f"notebook {ref.notebook_id!r} not found", notebook_id=ref.notebook_id)
        try:
            return await self._store.write(partial(opening.find_or_add, ref=ref, **await self._new(ref)))
        except StoreFailed as failed:
            raise refusal(failed) from failed

    async def _open(
        self,
        stored: Stored,
        sandbox: Sandbox | None = None,
        committed: int = 0,
        lost: Lost = LOST,
        *,
        restored: bool = False,
    ) -> _Seat:
        room = Room(
            stored,
            await loading.document(stored, self._store, self._config.data),
            changes=self.changes,
            store=self._store,
            supervisor=self._supervisor,
            seal=self._seal,
            config=self._config,
            replicas=self._replicas,
            library=self._library,
            counts=self.counts,
            allowances=self._allowances,
            audit=self._audit,
            traces=self._traces,
        )
        await room.recover(stored.unfinished, sandbox, committed, lost, restored=restored)
        seat = _Seat(room, asyncio.ensure_future(room.run()))
        self._seats[stored.record.ref] = seat
        return seat

    def _drop_later(self, ref: NotebookRef, seat: _Seat) -> None:
        """A room that nobody is in and that is at rest goes; one that is not is looked at again later."""
        if seat.users or self._seats.get(ref) is not seat:
            return
        if seat.room.at_rest:
            del self._seats[ref]
            self.changes.tell()
            self._last_busy = time.monotonic()
            seat.room.stop()
            self._leave_later(ref, seat)
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

    def _leave_later(self, ref: NotebookRef, seat: _Seat | None = None) -> None:
        leaving = asyncio.ensure_future(self._leave(ref, seat))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, ref: NotebookRef, seat: _Seat | None) -> None:
        """No room keeps the notebook: so it is given up, unless somebody has come again."""
        if seat is not None:
            await seat.task
        async with self._lock(ref):
            if ref not in self._seats:
                await self._give_up(ref)

    async def _finish(self, ref: NotebookRef, seat: _Seat) -> None:
        """Ends an abandoned room. Nobody opens the notebook again before what was in hand there is done."""
        async with self._lock(ref):
            await self._end(seat)


def _moved(ref: NotebookRef) -> Moved:
    return Moved(
        f"notebook {ref.notebook_id!r} has moved to another node, or is about to: ask again",
        retry_after_s=_ASK_AGAIN_S,
        notebook_id=ref.notebook_id,
    )
