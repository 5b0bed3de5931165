"""A live replica of a session's document: read and edited here, merged with everybody else's over the connection."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cellyard import _io_async, _requests
from cellyard._async.core import AsyncSessionCore
from cellyard._async.transport import AsyncTransport, Connection, Deadline
from cellyard._bell import Bell
from cellyard.document import DocumentCell, DocumentChange
from cellyard.errors import CapabilityUnavailable, CellyardError, ControllerUnavailable, NotConnected
from cellyard_proto.v1 import notebooks_pb2

if TYPE_CHECKING:
    from cellyard._replica import Replica

CLOSE_TIMEOUT_S = 10.0
_END_WITHIN_S = 5.0
_RETRY_S = 0.5

log = logging.getLogger("cellyard")


class AsyncDocument:
    """A live replica of a notebook's document, made by `session.document()`. Close it, or use it in a `with`.

    Edits take effect here at once and travel to the controller by themselves; what others do comes in by itself. What
    several people do to one source at the same time merges, but for sources of more than 20,000 characters, where
    the last writer wins. While the connection is away everything goes on, and what was edited meanwhile merges when
    it is back. Edits that the controller refuses (a source that is too large, ...) end the replica: from then on
    they raise its reason, and nothing is taken any more.
    """

    def __init__(self, notebook_id: str, transport: AsyncTransport, replica: Replica) -> None:
        self._notebook_id, self._transport, self._replica = notebook_id, transport, replica
        self._bell = Bell(_io_async.Event)
        self._listeners: list[Callable[[DocumentChange], object]] = []
        self._failure: CellyardError | None = None
        self._closed = False
        self._call: _io_async.Call[notebooks_pb2.SyncToClient] | None = None
        self._stream = 0
        self._reader: _io_async.Background | None = None

    # Reading

    @property
    def cells(self) -> list[DocumentCell]:
        """All cells in document order."""
        return self._replica.cells()

    def cell(self, cell_id: str) -> DocumentCell:
        """One cell. Raises CellNotFound."""
        return self._replica.cell(cell_id)

    def source(self, cell_id: str) -> str:
        """A cell's source. Raises CellNotFound."""
        return self._replica.cell(cell_id).source

    def get_metadata(self, key: str) -> str | None:
        """A value of the notebook's metadata, None where it is not set."""
        return self._replica.metadata(key)

    # Editing

    def create_cell(self, source: str = "", cell_type: str = "code", index: int | None = None) -> str:
        """Adds a cell and returns its id. `index` counts from 0; past the end, or None, appends."""
        _requests.text("source", source)
        _requests.one_of("cell_type", cell_type, _requests.CELL_TYPES)
        cell_id, at = _requests.cell_id(), _requests.index(index)
        self._edit(lambda replica: replica.create_cell(cell_id, source, cell_type, at))
        return cell_id

    def set_source(self, cell_id: str, source: str) -> None:
        """Writes a cell's whole source, as the smallest change of one span. Raises CellNotFound."""
        _requests.text("source", source)
        self._edit(lambda replica: replica.set_source(cell_id, source))

    def splice_source(self, cell_id: str, index: int, delete_count: int, text: str) -> None:
        """Replaces `delete_count` characters of a cell's source from `index` on by `text`.

        Places count Unicode code points. Raises CellNotFound, InvalidRequest for places that are not in the source.
        """
        _requests.text("text", text)
        at, count = _requests.index(index) or 0, _requests.index(delete_count, "delete_count") or 0
        self._edit(lambda replica: replica.splice_source(cell_id, at, count, text))

    def set_cell_type(self, cell_id: str, cell_type: str) -> None:
        """Makes a cell "code", "markdown" or "raw". Raises CellNotFound."""
        _requests.one_of("cell_type", cell_type, _requests.CELL_TYPES)
        self._edit(lambda replica: replica.set_cell_type(cell_id, cell_type))

    def set_cell_metadata(self, cell_id: str, values: Mapping[str, Any], *, remove: Collection[str] = ()) -> None:
        """Sets keys of a cell's metadata (JSON data) and removes others; the rest stays. Raises CellNotFound."""
        for key in (*values, *remove):
            _requests.text("a key", key)
        self._edit(lambda replica: replica.set_cell_metadata(cell_id, values, remove))

    def move_cell(self, cell_id: str, after: str | None = None) -> None:
        """Puts a cell behind another one, or first. Raises CellNotFound."""
        self._edit(lambda replica: replica.move_cell(cell_id, after))

    def delete_cell(self, cell_id: str) -> None:
        """Removes a cell; an execution of it that waits is cancelled. Raises CellNotFound."""
        self._edit(lambda replica: replica.delete_cell(cell_id))

    def set_metadata(self, key: str, value: str) -> None:
        """Sets a value of the notebook's metadata, typically JSON."""
        _requests.named("key", key)
        _requests.text("value", value)
        self._edit(lambda replica: replica.set_metadata(key, value))

    # Following

    def on_change(self, callback: Callable[[DocumentChange], object]) -> Callable[[], None]:
        """Calls a plain function after each change, here or elsewhere; what is returned takes it away again.

        Changes from here are told in the call that makes them, others from where the connection is read: be quick.
        """
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    @property
    def is_synced(self) -> bool:
        """Whether the controller has everything that was edited here, on disk."""
        return self._replica.synced

    async def wait_synced(self, timeout: float | None = None) -> None:
        """Waits until the controller has everything that was edited here, on disk.

        Raises ControllerUnavailable after `timeout` (seconds), NotConnected after close(), and why the controller
        refused edits, where it did.
        """
        await self._wait(lambda: self._replica.synced, timeout)

    async def close(self, timeout: float = CLOSE_TIMEOUT_S) -> None:
        """Ends the replica, once the controller has what was edited; twice is fine.

        Raises ControllerUnavailable where it does not get it within `timeout` (seconds), and why it refused edits:
        then they are lost.
        """
        if self._closed:
            return
        try:
            if self._replica.actor_id:
                await self.wait_synced(timeout)
        finally:
            await self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self._end()

    # Inside

    async def _begin(self, timeout: float) -> None:
        """Connects, and waits until the document is here."""
        self._reader = _io_async.in_background(self._follow)
        try:
            await self._wait(lambda: self._replica.ready, timeout)
        except BaseException:
            await self._end()
            raise

    async def _wait(self, done: Callable[[], bool], timeout: float | None) -> None:
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            ring = self._bell.next_ring
            self._check()
            if done():
                return
            left = None if ends is None else ends - time.monotonic()
            if (left is not None and left <= 0) or not await _io_async.happened(ring, left):
                raise ControllerUnavailable(
                    f"the controller and this replica of {self._notebook_id} did not come together in time",
                    retryable=True,
                )

    async def _end(self) -> None:
        self._closed = True
        self._bell.ring()
        if self._call is not None:
            self._call.cancel()
        if self._reader is not None:
            await _io_async.over(self._reader, _END_WITHIN_S)

    async def _follow(self) -> None:
        """Reads what the controller sends, on one connection after the other, until the end."""
        while not self._closed:
            try:
                async with aclosing(self._transport.stream(self._open, lambda message: self._closed)) as messages:
                    async for message in messages:
                        if message.HasField("opened"):
                            self._replica.begin(message.opened.actor_id)
                        else:
                            self._tell(self._replica.receive(message.sync))
                        self._bell.ring()
            except CellyardError as failure:
                if not (failure.retryable or self._closed):
                    self._failure = failure
                    break
                await _io_async.sleep(_RETRY_S)
            except Deadline:
                await _io_async.sleep(_RETRY_S)  # the controller takes connections, and does not answer
            except BaseException:
                if not self._closed:  # the event loop ends, or the interpreter
                    self._failure = NotConnected("not connected: nobody reads what the controller sends any more")
                    self._bell.ring()
                    raise
        self._bell.ring()

    def _open(self, connection: Connection) -> _io_async.Call[notebooks_pb2.SyncToClient]:
        self._check()
        self._stream += 1
        self._replica.lost()
        self._bell.ring()  # for what sends on the stream before: it is over
        self._call = connection.stubs.notebooks.Sync(self._outgoing(self._stream), metadata=connection.metadata)
        return self._call

    async def _outgoing(self, stream: int) -> AsyncGenerator[notebooks_pb2.SyncFromClient, None]:
        """What this replica has to say on one stream."""
        opening = notebooks_pb2.SyncOpen(notebook_id=self._notebook_id, actor_id=self._replica.actor_id)
        yield notebooks_pb2.SyncFromClient(open=opening)
        while stream == self._stream and not self._closed and self._failure is None:
            ring = self._bell.next_ring
            message = self._replica.next_message()
            if message is not None:
                yield notebooks_pb2.SyncFromClient(sync=message)
            else:
                await _io_async.happened(ring, None)

    def _edit(self, edit: Callable[[Replica], DocumentChange]) -> None:
        self._check()
        change = edit(self._replica)
        self._bell.ring()
        self._tell(change)

    def _tell(self, change: DocumentChange | None) -> None:
        if change is None or not (change.cells or change.removed or change.metadata):
            return
        for listener in list(self._listeners):
            try:
                listener(change)
            except Exception:  # the caller's own function
                if change.local:
                    raise
                log.exception("a callback of a live document failed")  # its caller is nobody

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise NotConnected("not connected: the document is closed")


class AsyncDocumentCalls(AsyncSessionCore):
    """The part of a session that replicates its document."""

    async def document(self, timeout: float = 60.0) -> AsyncDocument:
        """A live replica of the document, once the document is here. Connects where needed.

        Needs the extra `cellyard[document]`; raises CapabilityUnavailable without. Raises ControllerUnavailable where
        the document does not come within `timeout` (seconds).
        """
        try:
            from cellyard._replica import Replica
        except ImportError as missing:
            raise CapabilityUnavailable(
                f"a live document needs the extra `document` ({missing.name} is missing): "
                "pip install 'cellyard[document]'"
            ) from None
        await self._connected()
        opened = AsyncDocument(self._notebook_id, self._transport, Replica())
        self._documents.add(opened)
        await opened._begin(timeout)
        return opened
