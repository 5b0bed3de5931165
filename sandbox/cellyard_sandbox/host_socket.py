"""The agent's end of host calls: a unix socket that the kernel's processes connect to, once a call."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

from cellyard_proto.v1 import link_pb2
from cellyard_sandbox import host_frames as frames
from cellyard_sandbox.kernel_host import HostCall, HostListener
from cellyard_sandbox.text import clean

MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path, at most (sun_path)."""

_BACKLOG = 64


class HostSocket:
    """Listens for one kernel. Belongs to the event loop's thread."""

    def __init__(self, listener: HostListener) -> None:
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()

    async def listen(self, path: Path) -> None:
        """Takes calls from now on, of this user alone. Raises OSError, and ValueError where the path is too long."""
        too_long = len(os.fsencode(path)) - MAX_SOCKET_PATH
        if too_long > 0:
            raise ValueError(f"the path of the scratch folder is {too_long} bytes too long")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(path))
            os.chmod(path, 0o600)
        except BaseException:
            listening.close()
            raise
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Connection(self._listener, self._open), sock=listening, backlog=_BACKLOG
        )

    def close(self) -> None:
        """Drops what is open and takes no more calls; nothing is called any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._open):
            connection.drop()


class _Connection(asyncio.Protocol):
    """One call, from its request to its answer."""

    def __init__(self, listener: HostListener, open_: set[_Connection]) -> None:
        self._listener = listener
        self._open = open_
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._call_id = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._open) >= frames.MAX_OPEN:
            self._send(frames.REFUSED, f"{frames.MAX_OPEN} calls wait for their answer already")
        else:
            self._open.add(self)

    def data_received(self, data: bytes) -> None:
        if self not in self._open or self._call_id:
            return  # refused, or more than a request
        self._buffer += data
        parts = _parts(self._buffer)
        if parts is None:
            if len(self._buffer) > frames.MAX_REQUEST + frames.REQUEST * frames.LENGTH_BYTES:
                self._send(frames.REFUSED, f"a call takes at most {frames.MAX_REQUEST} bytes")
            return
        self._buffer = bytearray()
        call = _call(parts)
        if call is None:
            self._send(frames.REFUSED, "not a call")
        else:
            self._call_id = self._listener.host_called(call, self._answer)

    def connection_lost(self, reason: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        if self._call_id:
            self._listener.host_call_dropped(self._call_id)

    def drop(self) -> None:
        """Ends it without an answer."""
        self._call_id = ""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, answer: link_pb2.CallAnswer) -> None:
        match answer.WhichOneof("answer"):
            case "value_json":
                self._send(frames.VALUE, answer.value_json)
            case "text":
                self._send(frames.VALUE, json.dumps(answer.text))
            case "error":
                error = {"name": answer.error.name, "message": answer.error.message}
                self._send(frames.ERROR, json.dumps(error))
            case _:
                self._send(frames.UNAVAILABLE, answer.unavailable or "nobody answers")

    def _send(self, kind: str, content: str) -> None:
        self._open.discard(self)
        if self._transport is not None:
            self._transport.write(b"".join(frames.frame(part.encode()) for part in (kind, content)))
            self._transport.close()


def _parts(buffer: bytearray) -> list[bytes] | None:
    """The contents of a request's frames; None where some are missing."""
    parts = []
    start = 0
    for _ in range(frames.REQUEST):
        content = start + frames.LENGTH_BYTES
        if len(buffer) < content:
            return None
        start = content + frames.length(buffer[start:content])
        if len(buffer) < start:
            return None
        parts.append(bytes(buffer[content:start]))
    return parts if sum(map(len, parts)) <= frames.MAX_REQUEST else None


def _call(parts: list[bytes]) -> HostCall | None:
    try:
        name, args_json, kwargs_json = (part.decode() for part in parts)
        name = json.loads(name)
    except (ValueError, RecursionError):
        return None
    return HostCall(clean(name), args_json, kwargs_json) if isinstance(name, str) else None
