"""Following a notebook: how it is, and what happens to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from cellyard import _io_async, _translate, events
from cellyard._async import blobs
from cellyard._async.core import AsyncSessionCore
from cellyard._async.transport import Connection
from cellyard._watch import WatchView
from cellyard.errors import ExecutionNotFound
from cellyard_proto.v1 import executions_pb2, notebooks_pb2


class AsyncWatchCalls(AsyncSessionCore):
    """The part of a session that is about following its notebook."""

    def watch(self) -> AsyncIterator[events.NotebookEvent]:
        """The notebook as it is, a `Snapshot`, and then what happens to it, whoever does it, once it is durable.

        It goes on until the loop is left. Another `Snapshot` replaces everything that was told before: it comes where
        this client reads too slowly for what happens, and after a broken connection, which is healed for 30 s.
        Connects where needed.

        Raises NotebookNotFound when the notebook is deleted, ControllerUnavailable, NotConnected after `close()`.
        """
        return self._watch()

    async def _watch(self) -> AsyncGenerator[events.NotebookEvent, None]:
        await self._connected()
        request = notebooks_pb2.WatchNotebook(notebook_id=self._notebook_id)
        view = WatchView()

        def ask(connection: Connection) -> _io_async.Call[notebooks_pb2.NotebookEvent]:
            return connection.stubs.notebooks.Watch(request, metadata=connection.metadata)

        async with aclosing(self._transport.stream(ask, lambda _: False)) as messages:
            async for message in messages:
                await blobs.fill(self._transport, self._notebook_id, message)
                for event in view.take(message):
                    yield await self._completed(event, view)

    async def _completed(self, event: events.NotebookEvent, view: WatchView) -> events.NotebookEvent:
        """The end of an execution that began before this client watched comes with what was shown until then, too."""
        if not isinstance(event, events.ExecutionEvent) or not isinstance(event.event, events.Finished):
            return event
        if view.saw_all_of(event.execution_id):
            return event
        request = executions_pb2.GetExecution(notebook_id=self._notebook_id, execution_id=event.execution_id)
        try:
            found = await blobs.call(self._transport, self._notebook_id, lambda s: s.executions.Get, request)
        except ExecutionNotFound:  # it has expired since
            return event
        finished = events.Finished(_translate.execution(found), event.event.seq)
        return events.ExecutionEvent(event.execution_id, event.cell_id, finished)
