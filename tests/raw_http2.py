"""HTTP/2 frame by frame, for what no gRPC client would do: leave things half said, say nonsense, read nothing."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_HEAD = 9


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as literals that no table remembers (RFC 7541, section 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def call(path: str, *more: tuple[str, str]) -> bytes:
    """The header block of a gRPC call."""
    usual = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"))
    return block((*usual, ("content-type", "application/grpc"), ("te", "trailers"), *more))


def message(content: bytes, *, size: int | None = None, compressed: bool = False) -> bytes:
    """A gRPC message; `size` says that it is longer or shorter than it is."""
    return struct.pack(">BI", compressed, len(content) if size is None else size) + content


def _text(text: str) -> bytes:
    content = text.encode("latin-1")
    size = len(content)
    if size < 127:
        return bytes([size]) + content
    size -= 127
    encoded = bytearray([127])
    while size >= 128:
        encoded.append(size % 128 + 128)
        size //= 128
    return bytes([*encoded, size]) + content


class Connection:
    """A connection that does only what it is told. Frames that come in are read by `next_frame`, or not at all."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.window = 65_535
        """Bytes of content that the other side takes at the moment, on all streams."""
        self.windows: dict[int, int] = {}
        """The same of single streams, where it has said so."""
        self.first_window = 65_535

    @classmethod
    async def open(cls, target: str, *, greet: bool = True) -> Connection:
        """Connects to `unix:PATH` or `HOST:PORT`. `greet`: the preface and empty settings are sent."""
        if target.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(target.removeprefix("unix:"))
        else:
            host, _, port = target.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        connection = cls(reader, writer)
        if greet:
            await connection.send(PREFACE, frame(SETTINGS, 0, 0))
        return connection

    async def send(self, *parts: bytes) -> None:
        """Sends bytes. Raises ConnectionError where the other side has hung up."""
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def next_frame(self) -> tuple[int, int, int, bytes] | None:
        """Kind, flags, stream and content of what comes next; None at the end. Settings and pings are answered."""
        while True:
            try:
                head = await self._reader.readexactly(_HEAD)
                content = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            if kind == WINDOW_UPDATE:
                more = int.from_bytes(content, "big")
                if stream:
                    self.windows[stream] = self.windows.get(stream, 0) + more
                else:
                    self.window += more
            if kind == SETTINGS and not flags & ACK:
                for at in range(0, len(content), 6):
                    if int.from_bytes(content[at : at + 2], "big") == 4:
                        self.first_window = int.from_bytes(content[at + 2 : at + 6], "big")
            if kind in (SETTINGS, PING):
                if not flags & ACK:
                    await self.send(frame(kind, ACK, 0, content if kind == PING else b""))
                continue
            return kind, flags, stream, content

    async def send_data(self, stream: int, content: bytes) -> int:
        """Sends as much of it as the other side takes at the moment; returns how much."""
        size = min(len(content), self.window, self.first_window + self.windows.get(stream, 0), 16_384)
        if size > 0:
            self.window -= size
            self.windows[stream] = self.windows.get(stream, 0) - size
            await self.send(frame(DATA, 0, stream, content[:size]))
        return max(0, size)

    async def ended(self) -> None:
        """Returns once the other side has hung up."""
        while await self.next_frame() is not None:
            pass

    def close(self) -> None:
        """Hangs up."""
        self.writer.transport.abort()
