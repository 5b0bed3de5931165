"""One request through the proxy: a request to a server over HTTP, or a tunnel of bytes. h11 reads and writes HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import h11

from cellyard_controller.egress.dialling import BUFFER
from cellyard_controller.egress.targets import Malformed, Target

IDLE_AFTER = 600.0
"""Seconds without a byte in either direction after which a connection is closed."""
REFUSE_WITHIN = 10.0
MAX_HEAD = 64 * 1024
_CHUNK = 64 * 1024
_TEXT_MAX = 500
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    )
)
Headers = list[tuple[bytes, bytes]]


class Broken(Exception):
    """A side hung up in the middle, or does not speak HTTP."""


class Peer:
    """One side of an exchange, in HTTP."""

    def __init__(
        self,
        role: type[h11.CLIENT] | type[h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """`role` is ours: SERVER towards the sandbox."""
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)
        writer.transport.set_write_buffer_limits(BUFFER)

    async def next(self) -> h11.Event | type[h11.PAUSED]:
        """What comes next. Raises Broken, OSError."""
        while True:
            try:
                event = self.http.next_event()
                if not isinstance(event, type):
                    return event
                if event is h11.PAUSED:
                    return h11.PAUSED
                self.http.receive_data(await self.reader.read(_CHUNK))
            except h11.RemoteProtocolError as bad:
                raise Broken(f"that is not HTTP: {bad}") from None

    async def send(self, event: h11.Event) -> None:
        """Raises Broken, OSError."""
        try:
            data = self.http.send(event)
        except h11.LocalProtocolError as bad:
            raise Broken(f"what came cannot be passed on: {bad}") from None
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def refuse(self, status: int, why: str) -> None:
        """Answers without asking any server, where an answer can still be given. Raises Broken, OSError."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        async with asyncio.timeout(REFUSE_WITHIN):
            await self._refuse(status, why)

    async def _refuse(self, status: int, why: str) -> None:
        text = "".join(c if " " <= c <= "~" else "?" for c in why)[:_TEXT_MAX]
        body = f"cellyard: {text}\n".encode()
        headers = [("content-type", "text/plain"), ("content-length", str(len(body))), ("connection", "close")]
        # Programs show the reason of a refused CONNECT, and not the body.
        await self.send(h11.Response(status_code=status, reason=text.encode(), headers=headers))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())


async def head(client: Peer) -> h11.Request:
    """The request. Raises Broken, Malformed, OSError."""
    event = await client.next()
    if isinstance(event, h11.ConnectionClosed):
        raise Broken("nothing was asked")
    if not isinstance(event, h11.Request):
        raise Malformed("no request")
    return event


async def forward(request: h11.Request, target: Target, client: Peer, server: Peer) -> None:
    """Passes a request on and its answer back; one on a connection. Raises Broken, OSError."""
    async with asyncio.timeout(IDLE_AFTER) as idle:
        await server.send(_onward(request, target))
        upload = asyncio.ensure_future(_upload(client, server, idle))
        answer = asyncio.ensure_future(_answer(server, client, idle))
        try:
            await asyncio.wait((upload, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and upload.result():
                raise Broken("the client hung up")
            await answer
        finally:
            for task in (upload, answer):
                task.cancel()
            await asyncio.gather(upload, answer, return_exceptions=True)


async def tunnel(client: Peer, server: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Answers a CONNECT, then carries bytes until both sides have ended. Raises Broken, OSError, in a group too."""
    reader, writer = server
    writer.transport.set_write_buffer_limits(BUFFER)
    async with asyncio.timeout(IDLE_AFTER) as idle:
        if not isinstance(await client.next(), h11.EndOfMessage):
            raise Broken("a CONNECT with a body")
        early, _ = client.http.trailing_data
        client.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if early:
            writer.write(early)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(client.reader, writer, idle))
            both.create_task(_copy(reader, client.writer, idle))


def _onward(request: h11.Request, target: Target) -> h11.Request:
    destination = target.destination
    host = destination.host if destination.port == 80 else str(destination)
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    dropped = {b"host", b"content-length"} if chunked else {b"host"}  # both lengths would be read in two ways
    headers = _end_to_end(request.headers, dropped)
    return h11.Request(
        method=request.method,
        target=target.path,
        headers=[(b"Host", host.encode()), *headers, (b"Connection", b"close")],
    )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], dropped: set[bytes]) -> Headers:
    """Headers without those that mean this connection alone."""
    listed = [value for name, value in headers if name == b"connection"]
    named = {token.strip().lower() for value in listed for token in value.split(b",")}
    gone = _HOP_BY_HOP | dropped | (named - {b"content-length", b"transfer-encoding", b"host"})
    return [(name, value) for name, value in headers if name not in gone]


async def _upload(client: Peer, server: Peer, idle: asyncio.Timeout) -> bool:
    """Passes the body on, then stays. Returns whether the client hung up, which ends the exchange."""
    while True:
        try:
            event = await client.next()
        except (OSError, Broken):
            return True
        _moved(idle)
        if isinstance(event, h11.ConnectionClosed):
            return True
        if not isinstance(event, h11.Data | h11.EndOfMessage):
            return False  # it asks for more already; that goes unread
        try:
            await server.send(event)
        except (OSError, Broken):
            return False  # it reads no more, and may have answered all the same


async def _answer(server: Peer, client: Peer, idle: asyncio.Timeout) -> None:
    while True:
        event = await server.next()
        _moved(idle)
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                raise Broken("the server changed the protocol")
        elif isinstance(event, h11.Response):
            headers = _end_to_end(event.headers, {b"transfer-encoding"})
            event = h11.Response(
                status_code=event.status_code, reason=event.reason, headers=[*headers, (b"Connection", b"close")]
            )
        elif not isinstance(event, h11.Data | h11.EndOfMessage):
            raise Broken("the server hung up")
        await client.send(event)
        if isinstance(event, h11.EndOfMessage):
            return


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout) -> None:
    while data := await _read(reader):
        _moved(idle)
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:
        return b""  # what came before it still has to reach the other side


def _moved(idle: asyncio.Timeout) -> None:
    idle.reschedule(asyncio.get_running_loop().time() + IDLE_AFTER)
