"""The kernel's end of the socket. Every thread may send; what a signal's handler breaks off goes out later, whole."""

from __future__ import annotations

import datetime
import errno
import json
import numbers
import os
import socket
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cellyard_sandbox import frames

_READ = 64 * 1024  # bytes; from 128 KiB on, each read would map memory for itself
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN})


@dataclass(frozen=True, slots=True)
class Request:
    """A message from the agent."""

    kind: str
    msg_id: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    buffers: list[memoryview]


class Closed(Exception):
    """The agent is not there any more."""


def frame(
    kind: str, parent: str, content: Any, metadata: Any = None, buffers: Iterable[bytes | memoryview] = ()
) -> bytes:
    """A message for the agent; `parent` is the id of the request that caused it.

    Raises ValueError and TypeError where it is too long or no JSON.
    """
    parts = [kind.encode(), parent.encode("utf-8", "replace"), _json(content), _json(metadata or {})]
    parts += [bytes(buffer) for buffer in buffers]
    return frames.encode(parts)


class Connection:
    """The socket, from its inheritance until its end, or until a fork: it stays with the parent."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._socket.setblocking(True)
        self._reader = frames.Reader()
        self._reading = threading.RLock()
        self._sending = threading.RLock()
        self._busy = False
        self._unsent: deque[_Frame] = deque()
        self.open = True
        """Whether anybody can hear what is sent."""
        os.register_at_fork(after_in_child=self._forked)

    def fileno(self) -> int:
        """For a poll."""
        return self._socket.fileno()

    def send(self, *whole: bytes) -> None:
        """Sends frames, in order; returns once the socket has taken them, however long that takes."""
        self.queue(*whole)
        self.drain()

    def queue(self, *whole: bytes) -> None:
        """Keeps frames for the next `drain` or `send`."""
        self._unsent.append(_Frame(b"".join(whole)))

    def drain(self) -> None:
        """Sends what is queued. Where an exception breaks it off, whoever sends next goes on at the same byte."""
        with self._sending:
            if self._busy:
                return  # a signal's handler or a finalizer, called in the midst of the call below, which goes on
            self._busy = True
            try:
                while self._unsent:
                    first = self._unsent[0]
                    left = first.left()
                    if not left or not self.open:
                        self._unsent.popleft()
                        continue
                    # Sends and notes how much was sent without giving a signal's handler a chance in between.
                    first.sent.extend(map(self._socket.send, (left,)))
            except OSError as failed:
                if failed.errno not in _GONE:
                    raise  # by a signal's handler, for example
                self.open = False  # the agent takes the end of the socket for the kernel's, and kills it
                self._unsent.clear()
            finally:
                self._busy = False

    def receive(self) -> list[Request]:
        """What has come and was not received yet; does not wait. Raises Closed."""
        with self._reading:
            try:
                data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return []
            except OSError as failed:
                if failed.errno not in _GONE:
                    raise
                data = b""
            if not data:
                raise Closed
            return [_request(parts) for parts in self._reader.feed(data)]

    def _forked(self) -> None:
        self.open = False
        self._unsent.clear()
        self._sending, self._reading = threading.RLock(), threading.RLock()
        self._socket.close()


class _Frame:
    """Bytes to send, and what the socket has taken of them, call by call."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.sent: list[int] = []

    def left(self) -> memoryview:
        return self._data[sum(self.sent) :] if self.sent else self._data


def _request(parts: list[bytes]) -> Request:
    kind, msg_id, content, metadata, *buffers = parts
    return Request(
        kind.decode(),
        msg_id.decode(),
        json.loads(content),
        json.loads(metadata),
        [memoryview(part) for part in buffers],
    )


def _default(value: Any) -> Any:
    """JSON for what is none by itself, as Jupyter's own kernels have it."""
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.astimezone()).isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Iterable):
        return list(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{value!r} cannot be shown as JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_default)


def _json(value: Any) -> bytes:
    # Lone surrogates stay: no reply may fail for them, and the agent replaces them.
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")
