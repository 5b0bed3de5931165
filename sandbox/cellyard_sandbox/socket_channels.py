"""The Python kernel's channel: one socket for everything, in the order in which it happened, and no ZeroMQ.

Beside it, the kernel inherits the pipes that are its stdout and stderr. It reads them itself, so that what programs
write comes in order with what Python prints; what it cannot read any more because it has died is read here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cellyard_sandbox import frames, wire
from cellyard_sandbox.carriers import OnMessage
from cellyard_sandbox.messages import Chunk
from cellyard_sandbox.prefix import python_command

_READ = 256 * 1024  # bytes, before others get their turn on the event loop
_REST = 4 * 1024 * 1024  # bytes, of which a dead kernel has left a fraction; what lives on must not write for ever
_STREAMS = ("stdout", "stderr")


class SocketChannels:
    """A Channels (see carriers)."""

    def __init__(
        self,
        folder: Path,
        on_shell: OnMessage,
        on_iopub: OnMessage,
        on_stdin: OnMessage,
        on_hang_up: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_shell, self._on_iopub, self._on_stdin = on_shell, on_iopub, on_stdin
        self._on_hang_up = on_hang_up
        self._open = True
        self._reader = frames.Reader()
        self._room = memoryview(bytearray(_READ))  # kept: to allocate it costs more than a short message
        self._unsent = bytearray()
        self.hung_up = False
        """See Channels."""
        self.heard_at = self._loop.time()
        """See Channels."""
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._pipes = [os.pipe2(os.O_CLOEXEC) for _ in _STREAMS]
        self.inherited: Sequence[int] = (self._theirs.fileno(), *(end for pipe in self._pipes for end in pipe))
        """See Channels."""
        descriptors = map(str, self.inherited)
        self.program = os.path.basename(sys.executable)
        """See Channels."""
        self.command = python_command("cellyard_sandbox.python_kernel", str(os.getpid()), str(folder), *descriptors)
        """See Channels."""
        self._loop.add_reader(self._socket, self._read)

    def started(self) -> None:
        """See Channels."""
        self._theirs.close()
        for _, end in self._pipes:
            os.close(end)

    def send(self, request: wire.Request) -> None:
        """See Channels."""
        content, metadata = (json.dumps(part).encode() for part in (request.content, request.metadata))
        head = (request.kind.encode(), request.msg_id.encode())
        self._unsent += frames.encode([*head, content, metadata, *request.buffers])
        self._write()

    def answer(self, request: wire.Request) -> None:
        """See Channels."""
        self.send(request)

    def set_environment(self, env: Mapping[str, str]) -> None:
        """See Channels."""
        self.send(wire.Request("environment", "environment_request", {"env": dict(env)}))

    def interrupt(self) -> bool:
        """See Channels."""
        return False

    def read_iopub(self) -> None:
        """See Channels. There is but one channel."""

    def read_rest(self) -> None:
        """See Channels."""
        left = _REST
        while self._open and not self.hung_up and left > 0:
            read = self._receive()
            if not read:
                return
            left -= read

    def last_words(self) -> list[Chunk]:
        """See Channels."""
        words = []
        for name, (pipe, _) in zip(_STREAMS, self._pipes, strict=True):
            os.set_blocking(pipe, False)
            data = b""
            try:
                while len(data) < _REST and (more := os.read(pipe, _READ)):
                    data += more
            except BlockingIOError:
                pass  # somebody could still write
            if data:
                words.append(Chunk(name, data.decode(errors="replace")))
        return words

    def close(self) -> None:
        """See Channels."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        if self._theirs.fileno() != -1:
            self.started()
        for pipe, _ in self._pipes:
            os.close(pipe)

    def _read(self) -> None:
        self._receive()

    def _receive(self) -> int:
        """Reads once, and says how many bytes there were."""
        try:
            data = self._room[: self._socket.recv_into(self._room)]
        except BlockingIOError:
            return 0
        except OSError:
            data = self._room[:0]
        try:
            for parts in self._reader.feed(data):
                self._on_parts(parts)
                if not self._open:
                    return 0
        except frames.NotAFrame:
            data = self._room[:0]  # whatever else it says cannot be made out
        if not data:
            self._loop.remove_reader(self._socket)
            self.hung_up = True
            self._on_hang_up()
        return len(data)

    def _on_parts(self, parts: list[bytes]) -> None:
        self.heard_at = self._loop.time()
        kind, parent, content, metadata, *buffers = parts
        try:
            message = wire.Message(kind.decode(), parent.decode(), content, metadata, tuple(buffers))
        except UnicodeDecodeError:
            return  # the cell's own code can write what it likes
        if message.kind.endswith("_reply"):
            self._on_shell(message)
        elif message.kind == "input_request":
            self._on_stdin(message)
        else:
            self._on_iopub(message)

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(self._unsent)  # nobody is there, of which the end of what comes from there tells
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)
