"""The proxy: a listening socket and a list for each sandbox, and a bounded number of connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import h11

from cellyard_controller.egress import exchange, targets
from cellyard_controller.egress.dialling import BUFFER, Dialler, Unreachable
from cellyard_controller.egress.exchange import Broken, Peer
from cellyard_controller.egress.names import AllowList
from cellyard_controller.egress.notices import Notices

HEAD_WITHIN = 30.0
"""Seconds from the start of a connection to the end of its request's head."""
_LINGER = 2.0
_BACKLOG = 128
_REFUSED_AT_ONCE = 32
_DIALS = 8
"""Names of one sandbox that are resolved and dialled at a time: there are not threads for all."""

Tell = Callable[[str, targets.Denial], Awaitable[None]]


class Proxy:
    """Serves sandboxes, each on a socket of its own. Belongs to one event loop."""

    def __init__(self, dialler: Dialler, connections: int, tell: Tell) -> None:
        """`connections` of one sandbox at a time; `tell` is called with a sandbox's id and what was denied to it.

        The sandbox is answered once `tell` returns: what is told comes before whatever the code does next.
        """
        self._dialler, self._connections, self._tell = dialler, connections, tell
        self._doors: dict[str, _Door] = {}

    async def open(self, sandbox: str, listening: socket.socket, allowed: AllowList) -> None:
        """Serves a sandbox from now on, or gives it another list; a socket that listens is ours to close."""
        known = self._doors.get(sandbox)
        if known is not None:
            listening.close()
            known.allowed = allowed
            return
        door = self._doors[sandbox] = _Door(sandbox, allowed, self._dialler, self._connections, self._tell)
        await door.open(listening)

    async def close(self, sandbox: str) -> None:
        """Ends a sandbox's connections and takes no more."""
        door = self._doors.pop(sandbox, None)
        if door is not None:
            await door.close()


class _Door:
    """One sandbox's way out."""

    def __init__(self, sandbox: str, allowed: AllowList, dialler: Dialler, connections: int, tell: Tell) -> None:
        self.allowed = allowed
        self._sandbox, self._dialler, self._most, self._tell = sandbox, dialler, connections, tell
        self._notices = Notices()
        self._dialling = asyncio.Semaphore(_DIALS)
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, sock=listening, limit=BUFFER, backlog=_BACKLOG)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        client = Peer(h11.SERVER, reader, writer)
        try:
            if len(self._open) > self._most + _REFUSED_AT_ONCE:
                return
            if len(self._open) > self._most:
                await client.refuse(503, f"this sandbox has {self._most} connections already")
            else:
                await self._serve(client)
            await _hang_up(writer, reader)
        except* (OSError, Broken):
            pass  # whoever hung up knows; there is nobody to tell
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _serve(self, client: Peer) -> None:
        try:
            async with asyncio.timeout(HEAD_WITHIN):
                request = await exchange.head(client)
            hosts = [value for name, value in request.headers if name == b"host"]
            target = targets.read(request.method, request.target, hosts)
            if not self.allowed.allows(target.destination):
                host, port = target.destination.host, target.destination.port
                raise targets.Denied(targets.Denial(host, port, targets.NOT_LISTED))
            async with self._dialling:
                server = await self._dialler.dial(target.destination)
        except targets.Denied as denied:
            if self._notices.worth_telling(denied.denial, asyncio.get_running_loop().time()):
                await self._tell(self._sandbox, denied.denial)
            await client.refuse(403, str(denied))
        except Unreachable as gone:
            await client.refuse(502, str(gone))
        except (targets.Malformed, Broken) as bad:
            await client.refuse(400, str(bad))
        else:
            await self._pass_on(request, target, client, server)

    async def _pass_on(
        self,
        request: h11.Request,
        target: targets.Target,
        client: Peer,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        try:
            if request.method == b"CONNECT":
                await exchange.tunnel(client, server)
                await _hang_up(server[1])
            else:
                await exchange.forward(request, target, client, Peer(h11.CLIENT, *server))
        except (OSError, Broken) as failed:
            if request.method != b"CONNECT":
                await client.refuse(502, f"{target.destination} failed: {failed}")
        finally:
            server[1].transport.abort()


async def _hang_up(writer: asyncio.StreamWriter, reader: asyncio.StreamReader | None = None) -> None:
    """Closes it, once what is still to be sent has been sent. Raises OSError.

    What still comes from `reader` is read for a moment: closed over it, a connection breaks before its answer is read.
    """
    if reader is not None:
        writer.write_eof()
        try:
            async with asyncio.timeout(_LINGER):
                while await reader.read(BUFFER):
                    pass
        except TimeoutError:
            pass
    async with asyncio.timeout(HEAD_WITHIN):
        writer.close()
        await writer.wait_closed()
