"""Somebody out there who notices whoever connects: what an output that runs, or loads anything, would give away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
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

    async def answer(self, connection: socket.socket) -> None:
        """One connection."""
        self.connections += 1
        self._changed.set()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            content = await loop.sock_recv(connection, 65536)
            self.everything += content
            self.heard.append(content.partition(b"\r\n")[0].decode(errors="replace"))
            self._changed.set()
            await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@asynccontextmanager
async def listening() -> AsyncIterator[Canary]:
    """A canary, as long as the block runs.

    On a plain socket, because asyncio's server leaves open what it accepts while it is being closed.
    """
    answers: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        canary = Canary(listener.getsockname()[1])

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                connection, _ = listener.accept()
                connection.setblocking(False)
                task = loop.create_task(canary.answer(connection))
                task.add_done_callback(lambda _: connection.close())  # even if it is cancelled before it begins
                answers.add(task)

        loop.add_reader(listener, accept)
        try:
            yield canary
        finally:
            loop.remove_reader(listener)
            for task in answers:
                task.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
