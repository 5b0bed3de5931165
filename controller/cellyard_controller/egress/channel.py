"""What the controller and its proxy say to one another: JSON objects, some with an open socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

MAX_MESSAGE = 128 * 1024
"""Bytes of one message. A list of names at its longest is half of that."""


class Channel:
    """One end of a pair of unix sockets that keep messages apart. One reader and one writer at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes the socket over."""
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, message: dict[str, Any], carried: socket.socket | None = None) -> None:
        """Raises OSError where nobody is there."""
        data = json.dumps(message).encode()
        sockets = [] if carried is None else [carried.fileno()]
        while True:
            try:
                socket.send_fds(self._socket, [data], sockets)
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
            else:
                return

    async def receive(self) -> tuple[dict[str, Any], socket.socket | None] | None:
        """The next message; None where the other end is gone. Raises OSError, ValueError for what is no message."""
        while True:
            try:
                data, carried, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE, 1)
            except BlockingIOError:
                await self._until(self._loop.add_reader, self._loop.remove_reader)
                continue
            if not data:
                return None
            message = json.loads(data)
            if not isinstance(message, dict):
                raise ValueError("no object")
            return message, socket.socket(fileno=carried[0]) if carried else None

    def close(self) -> None:
        """Hangs up."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    async def _until(
        self, watch: Callable[[socket.socket, Callable[[], None]], Any], unwatch: Callable[[socket.socket], Any]
    ) -> None:
        ready = self._loop.create_future()
        watch(self._socket, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            unwatch(self._socket)
