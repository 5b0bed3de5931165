"""Somebody out there who notices whoever connects: what an output that runs, or loads anything, would give away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Canary:
    """A server on this machine. `heard` has the first line of each request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        """How many there were, whether anything was said or not."""
        self.heard: list[str] = []
        self.everything = b""
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it is; what follows says which output it was."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> set[str]:
        """The first part of each path that was asked for."""
        paths = (line.split(" ")[1] for line in self.heard if " " in line)
        return {path.lstrip("/").partition("/")[0].partition("?")[0] for path in paths}

    async def until(self, names: set[str]) -> None:
        """Returns when all of these were asked for."""
        while missing := names - self.names:
            self._changed.clear()
            try:
                await self._changed.wait()
            except asyncio.CancelledError:
                raise TimeoutError(f"nobody asked for {missing}") from None

    async def connected(self) -> None:
        """Returns when somebody has connected."""
        while not self.connections:
            self._changed.clear()
            await self._changed.wait()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self._changed.set()
        try:
            content = await reader.read(65536)
            self.everything += content
            self.heard.append(content.partition(b"\r\n")[0].decode(errors="replace"))
            self._changed.set()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except ConnectionError:
            pass  # it has been heard
        finally:
            writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Canary]:
    """A canary, as long as the block runs."""
    made: list[Canary] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await made[0].answer(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    made.append(Canary(server.sockets[0].getsockname()[1]))
    try:
        yield made[0]
    finally:
        server.close()
