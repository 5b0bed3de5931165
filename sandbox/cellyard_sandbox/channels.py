"""A kernel's channels: ZeroMQ sockets on unix sockets, read by callbacks of the event loop.

Nothing may be lost on the way. iopub is a PUB socket and drops what does not fit below its high-water mark, so
both ends have none, and the agent always reads. A ZeroMQ socket's descriptor tells only that something has
changed, so each callback reads until there is nothing left.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from cellyard_sandbox import wire
from cellyard_sandbox.carriers import OnMessage
from cellyard_sandbox.host_socket import MAX_SOCKET_PATH
from cellyard_sandbox.messages import Chunk
from cellyard_sandbox.prefix import python_command

_SHELL, _IOPUB, _STDIN, CONTROL, _LAST = 1, 2, 3, 4, 5  # "ports", which end the names of the sockets' files
_IDENTITY = b"agent"  # the kernel asks whoever sent it a request on the channel stdin, so both need one name
_CONNECT_AGAIN_MS = 5
_READ_AT_ONCE = 256 * 1024  # bytes, before others get their turn on the event loop


class ZmqChannels:
    """A Channels (see carriers): the agent's ends of shell, iopub and stdin. Belongs to the event loop's thread."""

    def __init__(
        self,
        folder: Path,
        on_shell: OnMessage,
        on_iopub: OnMessage,
        on_stdin: OnMessage,
        on_hang_up: Callable[[], None],
    ) -> None:
        """Connects, whether the kernel listens already or not."""
        longest = len(os.fsencode(folder / f"k-{_LAST}"))
        if longest > MAX_SOCKET_PATH:
            raise ValueError(f"the path of the scratch folder is {longest - MAX_SOCKET_PATH} bytes too long")
        context: zmq.Context[Any] = zmq.Context.instance()
        self._loop = asyncio.get_running_loop()
        self._address = f"{folder}/k"
        self._on_hang_up = on_hang_up
        self._open = True
        self.inherited: Sequence[int] = ()
        """See Channels."""
        self.hung_up = False
        """See Channels."""
        self.heard_at = self._loop.time()
        """See Channels."""
        self._shell = self._channel(context, zmq.DEALER)
        self._iopub = self._channel(context, zmq.SUB)
        self._iopub.subscribe(b"")
        self._stdin = self._channel(context, zmq.DEALER)
        self._monitor = self._iopub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._read_shell = self._reader(self._shell, on_shell)
        self._read_iopub = self._reader(self._iopub, on_iopub)
        self._read_stdin = self._reader(self._stdin, on_stdin)
        self._shell.connect(self._at(_SHELL))
        self._iopub.connect(self._at(_IOPUB))
        self._stdin.connect(self._at(_STDIN))
        self._loop.add_reader(self._monitor.fileno(), self._read_monitor)
        # A descriptor tells of nothing to somebody who has never found its socket empty.
        self.read_rest()
        self._read_monitor()
        connection_file = folder / "connection.json"
        connection_file.write_text(json.dumps(self.connection()), "ascii")
        self.program = os.path.basename(sys.executable)
        """See Channels."""
        self.command = python_command("cellyard_sandbox.kernel", str(connection_file), str(os.getpid()))
        """The Python kernel that listens there."""

    def connection(self) -> dict[str, str | int]:
        """What the kernel's connection file says (Jupyter: "Connection files"). Messages are not signed: wire.py."""
        return {
            "transport": "ipc",
            "ip": self._address,
            "shell_port": _SHELL,
            "iopub_port": _IOPUB,
            "stdin_port": _STDIN,
            "control_port": CONTROL,
            "hb_port": _LAST,
            "key": "",
            "signature_scheme": "hmac-sha256",
        }

    def started(self) -> None:
        """See Channels."""

    def send(self, request: wire.Request) -> None:
        """See Channels."""
        self._shell.send_multipart(wire.frames(request), zmq.NOBLOCK)
        self._read_shell()  # sending may have swallowed the sign that there is something to read

    def answer(self, request: wire.Request) -> None:
        """See Channels."""
        self._stdin.send_multipart(wire.frames(request), zmq.NOBLOCK)
        self._read_stdin()

    def set_environment(self, env: Mapping[str, str]) -> None:
        """See Channels."""
        code = f"__import__('os').environ.update({dict(env)!r})"
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False}
        self.send(wire.Request("environment", "execute_request", content))

    def interrupt(self) -> bool:
        """See Channels."""
        return False

    def read_iopub(self) -> None:
        """See Channels."""
        self._read_iopub()

    def read_rest(self) -> None:
        """See Channels."""
        self._read_iopub()
        self._read_shell()
        self._read_stdin()

    def last_words(self) -> list[Chunk]:
        """See Channels. Here the kernel alone has its pipes."""
        return []

    def close(self) -> None:
        """See Channels."""
        if not self._open:
            return
        self._open = False
        self._iopub.disable_monitor()
        for channel in (self._monitor, self._shell, self._iopub, self._stdin):
            self._loop.remove_reader(channel.fileno())
            channel.close(linger=0)

    def _at(self, channel: int) -> str:
        return f"ipc://{self._address}-{channel}"

    def _channel(self, context: zmq.Context[Any], kind: int) -> zmq.Socket[Any]:
        channel: zmq.Socket[Any] = context.socket(kind)
        channel.set_hwm(0)
        if kind == zmq.DEALER:
            channel.setsockopt(zmq.IDENTITY, _IDENTITY)
        channel.setsockopt(zmq.RECONNECT_IVL, _CONNECT_AGAIN_MS)  # until the kernel listens
        return channel

    def _reader(self, channel: zmq.Socket[Any], on_message: Callable[[wire.Message], None]) -> Callable[[], None]:
        def read() -> None:
            read_bytes = 0
            while self._open:
                if read_bytes > _READ_AT_ONCE:
                    self._loop.call_soon(read)
                    return
                try:
                    frames = channel.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return
                self.heard_at = self._loop.time()
                read_bytes += sum(map(len, frames))
                try:
                    message = wire.parse(frames)
                except wire.NotAMessage:
                    continue  # the cell's own code can write what it likes
                on_message(message)

        self._loop.add_reader(channel.fileno(), read)
        return read

    def _read_monitor(self) -> None:
        try:
            while True:
                self._monitor.recv_multipart(zmq.NOBLOCK)
                self.hung_up = True
        except zmq.Again:
            if self.hung_up:
                self._on_hang_up()
