"""A room's document for live replicas: automerge's sync protocol, one stream a replica.

A worker process keeps a copy of the document and reads what replicas send (see `replicas`). What it has verified the
room takes over and commits, and only then anybody is told; the room's own changes go to the copy once they are
committed. All that concerns one notebook's copy happens one after the other, under a lock, so that the copy holds
nothing that is not committed while a message to a replica is made.

The protocol compares states, so nothing is queued: a stream makes its next message when the client has taken the last
one. It also loses nothing with the worker: a stream that another worker does not know is told to begin anew, by
another `Opened`.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from cellyard_controller.config import ReplicasConfig
from cellyard_controller.errors import InvalidRequest, QuotaExceeded, Refused, Stopping, Unavailable
from cellyard_controller.ids import NotebookKey, NotebookRef
from cellyard_controller.notebooks import records
from cellyard_controller.notebooks.editor import Editor
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.pages import Pages
from cellyard_controller.replicas.actors import Actors
from cellyard_controller.replicas.merging import Merged
from cellyard_controller.replicas.process import (
    Answer,
    Panicked,
    RefusedByWorker,
    ReplicaWorker,
    UnknownToWorker,
    WorkerDied,
)
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store

_ATTEMPTS = 5
"""Times that something is asked of a worker that does not know what it is about."""
_DEATHS = 1
"""Deaths of the worker that a message is not blamed for: the machine may have been short of memory."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The replica may begin, or begin anew with a fresh state of the protocol."""

    actor_id: bytes


@dataclass(slots=True, eq=False)
class _Stream:
    name: str
    actor_id: bytes
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    begun: bool = False
    """The client has sent a message since it was last told to begin: the controller only answers."""
    known: bool = False
    """The worker was told of it."""
    anew: bool = False
    """The worker knows the stream anew; the client has to be told."""


class Replication:
    """The replicas of one room's document. Its coroutines may be called from any task."""

    def __init__(
        self,
        key: NotebookKey,
        ref: NotebookRef,
        pages: Pages,
        editor: Editor,
        *,
        store: Store,
        seal: Seal,
        config: ReplicasConfig,
        worker: ReplicaWorker,
        ask: Ask,
    ) -> None:
        self._key, self._ref, self._pages, self._editor = key, ref, pages, editor
        self._store, self._config, self._worker, self._ask = store, config, worker, ask
        self._actors = Actors(seal, ref)
        self._document = f"{key}-{uuid.uuid4()}"
        self._numbers = itertools.count(1)
        self._streams: set[_Stream] = set()
        self._turn = asyncio.Lock()
        self._heads: list[bytes] | None = None
        """The state of the worker's copy; None where it has none that is right."""
        self._behind = False
        """The document has changed since the copy was brought up to date."""
        self._over: Refused | None = None

    @property
    def anybody(self) -> bool:
        """Whether a replica is connected."""
        return bool(self._streams)

    def close(self, why: Refused | None = None) -> None:
        """Ends every stream, with this; the room has come to its end."""
        closed = Stopping("the notebook is closed: it was deleted, or the controller is stopping")
        self._over = self._over or why or closed
        self._wake()

    async def serve(self, actor_id: bytes, incoming: AsyncIterator[bytes]) -> AsyncGenerator[Opened | bytes, None]:
        """One replica, until its client goes: takes its messages, gives those for it.

        `actor_id`: one that the client was given before; empty for a new one. Raises InvalidRequest for a message that
        is refused, which ends the stream and has changed nothing; Stopping when the room ends.
        """
        if len(self._streams) >= self._config.streams:
            raise QuotaExceeded(f"the notebook has {len(self._streams)} live replicas; at most {self._config.streams}")
        actor_id = self._actors.known(actor_id) if actor_id else self._actors.new()
        stream = _Stream(f"{self._document}-{next(self._numbers)}", actor_id)
        self._streams.add(stream)
        self._pages.on_stored.add(self._stored)
        reader = asyncio.ensure_future(self._read(stream, incoming))
        reader.add_done_callback(lambda _: stream.wake.set())
        try:
            yield Opened(actor_id)
            while not (reader.done() or self._over):
                if stream.begun and not stream.anew:
                    message = await self._next_message(stream)
                    if message is not None:
                        yield message
                        continue
                if stream.anew:
                    stream.begun = stream.anew = False
                    yield Opened(actor_id)
                await stream.wake.wait()
                stream.wake.clear()
            self._check_open()
            reader.result()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, Exception):  # it was raised above, or nobody is there to hear it
                await reader
            self._streams.discard(stream)
            await self._leave(stream)

    # Inside

    async def _read(self, stream: _Stream, incoming: AsyncIterator[bytes]) -> None:
        async for message in incoming:
            if len(message) > self._config.message:
                raise InvalidRequest(
                    f"a sync message of {len(message)} bytes; at most {self._config.message} are allowed"
                )
            async with self._turn:
                await self._receive(stream, message)
            stream.begun = True
            stream.wake.set()

    async def _receive(self, stream: _Stream, message: bytes) -> None:
        answer = await self._about(stream, "receive", [message])
        if answer and answer.contents:
            merged = Merged(answer.contents, *(answer.head[name] for name in ("operations", "touched", "removed")))
            heads, self._heads = answer.heads, None  # until it is committed the copy has too much
            await self._editor.take_over(merged)
            self._heads = heads

    async def _next_message(self, stream: _Stream) -> bytes | None:
        stream.wake.clear()  # what happens from now on is for the next message
        async with self._turn:
            answer = await self._about(stream, "generate")
        return answer.contents[0] if answer and answer.contents else None

    async def _about(self, stream: _Stream, do: str, contents: Sequence[bytes] = ()) -> Answer | None:
        """Has the worker do something with a stream, once its copy is that of the document as it is.

        None where nothing is to be said before the client has begun anew.
        """
        deaths = 0
        for _ in range(_ATTEMPTS):
            self._check_open()
            caught_up = False
            try:
                await self._catch_up()
                caught_up = True
                if not stream.known:
                    await self._worker.ask("open", contents=[stream.actor_id], stream=stream.name)
                    stream.known = True
                return await self._worker.ask(do, contents=contents, document=self._document, stream=stream.name)
            except UnknownToWorker as unknown:
                if unknown.what == "document":
                    self._heads = None
                else:
                    stream.known, stream.anew = False, stream.begun
                    if not contents:
                        return None
            except RefusedByWorker as refused:
                raise InvalidRequest(str(refused)) from None
            except (Panicked, WorkerDied) as failed:
                self._heads = None
                self._check_open()
                deaths += 1
                if deaths <= _DEATHS and isinstance(failed, WorkerDied) and not failed.hung:
                    continue
                if caught_up:
                    raise InvalidRequest(f"the message cannot be taken: {failed}") from None
                raise Unavailable(f"the document cannot be had by live replicas: {failed}") from None
        raise Unavailable("live replicas cannot be served: their worker does not keep the document")

    async def _catch_up(self) -> None:
        try:
            if self._heads is None:
                self._behind = True
                chunks = await self._store.read(partial(records.chunks, key=self._key))
                self._heads = (await self._worker.ask("load", contents=chunks, document=self._document)).heads
            while self._behind:
                self._behind = False
                changes = await self._ask(partial(self._changes_since, self._heads))
                if changes:
                    follow = self._worker.ask("follow", contents=changes, document=self._document)
                    self._heads = (await follow).heads
        except BaseException:  # also where its client has gone meanwhile: nobody knows how far the copy is
            self._heads = None
            raise

    async def _changes_since(self, heads: list[bytes]) -> list[bytes]:
        return (await self._pages.current()).changes_since(heads)

    async def _leave(self, stream: _Stream) -> None:
        if not self._streams:
            self._pages.on_stored.discard(self._stored)
            self._heads = None
        try:
            await self._worker.ask("close", stream=stream.name)
            if not self._streams:
                await self._worker.ask("forget", document=self._document)
        except WorkerDied:
            pass  # it took all of it along

    def _check_open(self) -> None:
        if self._over is not None:
            raise self._over

    def _stored(self) -> None:
        self._behind = True
        self._wake()

    def _wake(self) -> None:
        for stream in self._streams:
            stream.wake.set()
