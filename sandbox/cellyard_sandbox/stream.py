"""Frames over one connected socket, without waiting: reading goes on whatever becomes of writing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from cellyard_proto.framing import Decoder, FrameError
from cellyard_proto.v1 import link_pb2

_READ_BYTES = 256 * 1024


class FrameStream:
    """One connection to the controller. Belongs to the event loop's thread."""

    def __init__(
        self,
        connected: socket.socket,
        on_message: Callable[[link_pb2.ToAgent], None],
        on_writable: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        """`on_end` is called once, with a reason, after everything that had arrived was handed on."""
        self._socket = connected
        self._on_message = on_message
        self._on_writable = on_writable
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(link_pb2.ToAgent)
        self._room = memoryview(bytearray(_READ_BYTES))  # kept: to allocate it costs more than a short message
        self._unwritten = memoryview(b"")
        self._broken = False
        self._ended = False
        connected.setblocking(False)
        self._loop.add_reader(connected, self._read)

    @property
    def writable(self) -> bool:
        """All that was written is with the system, and more can be."""
        return not self._unwritten and not self._broken and not self._ended

    def write(self, frame: bytes) -> None:
        """Sends a frame. Only where `writable`; it is lost where the connection breaks."""
        self._unwritten = memoryview(frame)
        self._write()
        if self._unwritten:
            self._loop.add_writer(self._socket, self._written_more)

    def close(self) -> None:
        """Closes the connection; nothing is called any more."""
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _read(self) -> None:
        try:
            data = self._room[: self._socket.recv_into(self._room)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as lost:
            self._end(str(lost))
            return
        if not data:
            self._end("closed by the controller")
            return
        try:
            for message in self._decoder.feed(data):
                if not self._ended:
                    self._on_message(message)
        except FrameError as bad:
            self._end(str(bad))

    def _written_more(self) -> None:
        self._write()
        if not self._unwritten:
            self._loop.remove_writer(self._socket)
            self._on_writable()

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._socket.send(self._unwritten) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # What the controller had sent is still to be read; the end of that ends the connection.
            self._broken = True
            self._unwritten = memoryview(b"")

    def _end(self, reason: str) -> None:
        if not self._ended:
            self.close()
            self._on_end(reason)
