"""A unix socket before the engine's, which can hang or be gone while the engine itself is well."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_WITHIN = 30.0
_PIECE = 65536


class EngineProxy:
    """Passes bytes on in both directions, or holds them. Lives in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.calls = 0
        """Connections so far."""
        self._path = path
        self._engine = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock").path
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-proxy", daemon=True)

    def hang(self) -> None:
        """From now on connections are taken, and nothing that was not under way comes through."""
        self._do(self._flowing.clear)

    def resume(self) -> None:
        """What was held goes on its way, late."""
        self._do(self._flowing.set)

    def go(self) -> None:
        """The socket is gone, and every connection with it."""
        self._await(self._close())

    def come(self) -> None:
        """The socket is there."""
        self._await(self._open())

    @contextmanager
    def running(self) -> Iterator[EngineProxy]:
        """Is there and passes on, for as long as the block runs."""
        self._thread.start()
        self.resume()
        self.come()
        try:
            yield self
        finally:
            self.go()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_WITHIN)
            self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self._path)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.calls += 1
        far = None
        try:
            far_reader, far = await asyncio.open_unix_connection(self._engine)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far))
                both.create_task(self._pass(far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # the connection is over, whoever ended it
        finally:
            self._connections.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(_PIECE):
            await self._flowing.wait()
            sink.write(piece)
            await sink.drain()
        await self._flowing.wait()
        if sink.can_write_eof():
            sink.write_eof()

    def _do(self, what: Callable[[], None]) -> None:
        async def work() -> None:
            what()

        self._await(work())

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_WITHIN)
