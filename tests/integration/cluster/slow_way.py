"""A way to a PostgreSQL server on which everything takes its time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SlowWay:
    """Passes on what it gets, in its order and after a delay, on a thread of its own."""

    def __init__(self, port: int, delay_s: float) -> None:
        """`port`: the server's, on the loopback interface. `delay_s`: on the way there, and as much on the way back."""
        self.messages = 0
        """That clients have sent; each is at least one wait for the server."""
        self._server_port, self._delay = port, delay_s
        self._loop = asyncio.new_event_loop()
        self._listening = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._listening.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._listening.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            await asyncio.gather(self._pass(reader, requests, counted=True), self._pass(answers, writer))
        finally:
            for each in (writer, requests):
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False) -> None:
        while content := await reader.read(65536):
            self.messages += counted
            self._loop.call_later(self._delay, writer.write, content)
        self._loop.call_later(self._delay, writer.close)


@contextmanager
def slow_way(url: str, delay_s: float) -> Iterator[tuple[SlowWay, str]]:
    """One to the server of this URL, and the URL by which it is taken."""
    front, _, rest = url.rpartition(":")
    port, _, database = rest.partition("/")
    way = SlowWay(int(port), delay_s)
    try:
        yield way, f"{front}:{way.port}/{database}"
    finally:
        way.close()
