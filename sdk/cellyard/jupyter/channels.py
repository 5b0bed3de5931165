"""The kernel's five sockets, and Jupyter's messages on them (Jupyter messaging 5.4, "The wire protocol").

What comes is checked: a message that is malformed, signed wrongly or a repetition of another one is dropped, with a
line in the log, and nothing else happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.session import DELIM, Session

log = logging.getLogger("cellyard.jupyter")

KINDS: Mapping[str, int] = {
    "shell": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "stdin": zmq.ROUTER,
    "control": zmq.ROUTER,
    "hb": zmq.REP,
}
LINGER_MS = 1000
_MOST_FRAMES = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """A message from a front end."""

    channel: str
    idents: Sequence[bytes]
    kind: str
    header: dict[str, Any]
    parent_header: dict[str, Any]
    metadata: dict[str, Any]
    content: dict[str, Any]
    buffers: Sequence[bytes] = field(default=())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kernel listens."""

    transport: str
    ip: str
    ports: Mapping[str, int]
    """By channel; 0 for any that is free."""
    key: bytes
    signature_scheme: str


class Channels:
    """The sockets of one kernel. Belongs to one event loop."""

    def __init__(self, place: Place) -> None:
        """Binds. Raises OSError (zmq.ZMQError) where that is not possible."""
        self._session = Session(key=place.key, signature_scheme=place.signature_scheme, username="kernel")
        context = zmq.asyncio.Context.instance()
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._tasks: list[asyncio.Task[None]] = []
        ports: dict[str, int] = {}
        try:
            for name, kind in KINDS.items():
                socket = self._sockets[name] = context.socket(kind)
                socket.linger = LINGER_MS
                if kind == zmq.ROUTER:
                    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that comes again under its name
                if kind == zmq.XPUB:
                    socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # each subscription is welcomed
                if kind != zmq.REP:
                    socket.setsockopt(zmq.SNDHWM, 0)  # nothing is dropped without a word
                ports[name] = _bind(socket, place, place.ports[name])
        except BaseException:
            self.close()
            raise
        self.place = Place(place.transport, place.ip, ports, place.key, place.signature_scheme)
        """Where it listens, with the ports that it got."""

    def serve(self, on_request: Callable[[Request], Awaitable[None]]) -> None:
        """Reads from now on; again changes nothing. The channel's next message waits until `on_request` returns."""
        if self._tasks:
            return
        self._tasks = [
            asyncio.create_task(self._read(name, on_request), name=f"cellyard-jupyter-{name}")
            for name in ("shell", "control", "stdin")
        ]
        self._tasks += [asyncio.create_task(self._echo()), asyncio.create_task(self._welcome())]

    def publish(
        self,
        kind: str,
        content: Mapping[str, Any],
        parent: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
    ) -> None:
        """Sends to everybody who listens; `parent`: the header of the request that brought it about."""
        topic = f"kernel.{self._session.session}.{kind}".encode()
        self._send("iopub", [topic], kind, content, parent, metadata, buffers)

    def reply(
        self, request: Request, kind: str, content: Mapping[str, Any], *, channel: str = "", metadata: Any = None
    ) -> None:
        """Sends to who has sent a request; on its own channel, unless another one is named."""
        self._send(channel or request.channel, request.idents, kind, content, request.header, metadata)

    def close(self) -> None:
        """Stops listening. What was sent goes out for a second at most."""
        for task in self._tasks:
            task.cancel()
        for socket in self._sockets.values():
            socket.close()

    def _send(
        self,
        channel: str,
        idents: Sequence[bytes],
        kind: str,
        content: Mapping[str, Any],
        parent: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
    ) -> None:
        socket = self._sockets[channel]
        if socket.closed:
            return
        message = self._session.msg(kind, content=dict(content), parent=None, metadata=dict(metadata or {}))
        message["parent_header"] = dict(parent or {})
        # These sockets never make a sender wait: it is on its way when this returns.
        socket.send_multipart([*self._session.serialize(message, ident=list(idents)), *buffers])

    async def _read(self, name: str, on_request: Callable[[Request], Awaitable[None]]) -> None:
        while True:
            frames = await self._sockets[name].recv_multipart()
            request = self._parsed(name, frames)
            if request is not None:
                await on_request(request)

    def _parsed(self, channel: str, frames: list[bytes]) -> Request | None:
        try:
            if len(frames) > _MOST_FRAMES or DELIM not in frames:
                raise ValueError("no Jupyter message")
            idents, parts = self._session.feed_identities(frames)
            message = self._session.deserialize(parts)
            header, content = message["header"], message["content"]
            if not isinstance(content, dict) or not isinstance(message["metadata"], dict):
                raise ValueError("content or metadata is no object")
            if not isinstance(header["msg_type"], str) or not isinstance(header["msg_id"], str):
                raise ValueError("a header of the wrong types")
            return Request(
                channel,
                tuple(idents),
                header["msg_type"],
                _plain(header),
                _plain(message["parent_header"]),
                message["metadata"],
                content,
                tuple(bytes(buffer) for buffer in message["buffers"]),
            )
        except Exception as bad:  # whatever a stranger's bytes make of reading them, they are no message
            log.warning("a message on %s is dropped: %s", channel, str(bad)[:200] or type(bad).__name__)
            return None

    async def _echo(self) -> None:
        heartbeat = self._sockets["hb"]
        while True:
            await heartbeat.send_multipart(await heartbeat.recv_multipart())

    async def _welcome(self) -> None:
        """Tells who subscribes that they do (Jupyter enhancement proposal 65)."""
        iopub = self._sockets["iopub"]
        while True:
            event = await iopub.recv()
            if event[:1] == b"\x01":
                topic = bytes(event[1:])
                said = {"subscription": topic.decode(errors="replace")}
                self._send("iopub", [topic], "iopub_welcome", said, None)


def _plain(header: Any) -> dict[str, Any]:
    """A header as JSON has it: jupyter_client makes moments of its dates."""
    if not isinstance(header, dict):
        return {}
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in header.items()}


def _bind(socket: zmq.asyncio.Socket, place: Place, port: int) -> int:
    if place.transport == "tcp":
        if port:
            socket.bind(f"tcp://{place.ip}:{port}")
            return port
        return int(socket.bind_to_random_port(f"tcp://{place.ip}"))
    while True:
        port = port or 1
        path = f"{place.ip}-{port}"
        try:
            if os.path.exists(path) and not place.ports.get("shell"):
                raise FileExistsError
            socket.bind(f"ipc://{path}")
            return port
        except FileExistsError:
            port += 1
