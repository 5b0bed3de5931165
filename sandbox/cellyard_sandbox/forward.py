"""The way out of a sandbox without a network: connections to 127.0.0.1 here are carried to the proxy's socket.

Bytes only. What may go where is decided outside; this is code's own sandbox, and it could as well use the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

MAX_OPEN = 256
_BACKLOG = 128
_CHUNK = 64 * 1024
_LINGER_S = 2.0
_STAY = "localhost,127.0.0.1,::1"


class Forwarder:
    """Carries connections to one unix socket. Belongs to the event loop's thread."""

    def __init__(self, path: str) -> None:
        """`path` is the proxy's socket; it is dialled anew for each connection. Listens at once; raises OSError."""
        self._path = path
        self._open: set[asyncio.Task[None]] = set()
        listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._port: int = listening.getsockname()[1]
        serving = asyncio.start_server(self._accepted, sock=listening, backlog=_BACKLOG, limit=_CHUNK)
        self._serving = asyncio.ensure_future(serving)

    @property
    def environment(self) -> dict[str, str]:
        """What programs are told of it: the variables that curl, git, pip and Python's libraries read."""
        address = f"http://127.0.0.1:{self._port}"
        upper = {"HTTP_PROXY": address, "HTTPS_PROXY": address, "NO_PROXY": _STAY}
        return upper | {name.lower(): value for name, value in upper.items()}

    async def close(self) -> None:
        """Drops what is open and takes no more."""
        (await self._serving).close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= MAX_OPEN:
                await self._carry(reader, writer)
        except OSError:
            pass  # the controller is away: the client sees its connection end
        finally:
            self._open.discard(task)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        # A plain socket: a transport drops what has arrived when what it sends is refused, and a proxy that refuses a
        # request before it was read whole says why.
        with socket.socket(socket.AF_UNIX) as out:
            out.setblocking(False)
            await loop.sock_connect(out, self._path)
            answer = asyncio.ensure_future(_bring(out, writer))
            request = asyncio.ensure_future(_send(reader, out))
            try:
                await answer
                # The proxy has hung up, and nobody wants the rest of the request. But closed over it, the client's
                # connection would break before the answer is read.
                await asyncio.wait((request,), timeout=_LINGER_S)
            finally:
                request.cancel()
                answer.cancel()
                await asyncio.gather(request, answer, return_exceptions=True)


async def _bring(out: socket.socket, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # one side is gone; the other is told by what follows
        while data := await loop.sock_recv(out, _CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def _send(reader: asyncio.StreamReader, out: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await loop.sock_sendall(out, data)
        out.shutdown(socket.SHUT_WR)
        return
    with contextlib.suppress(OSError):
        while await reader.read(_CHUNK):
            pass  # the proxy takes no more, and the client is to come to its answer
