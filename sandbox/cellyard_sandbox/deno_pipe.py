"""What the code in a Deno kernel writes, as deno_prelude.js sends it: frames through a named pipe."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

_STDOUT, _STDERR, _MESSAGE = 1, 2, 3
_HEADER = 5
_MAX_FRAME = 32 * 1024 * 1024
_READ = 256 * 1024
_PIPE = 64 * 1024  # bytes that wait in a pipe, at most

OnWritten: TypeAlias = Callable[[str, bytes], None]
"""Called with a kind of message, such as `stream`, and its content as JSON."""


class Frames:
    """Takes the frames of deno_prelude.js apart."""

    def __init__(self, on_written: OnWritten) -> None:
        self._on_written = on_written
        self._rest = b""
        self._texts = {_STDOUT: _Text("stdout", on_written), _STDERR: _Text("stderr", on_written)}

    def feed(self, data: bytes) -> None:
        """Reads on. What is no frame is dropped: only code that tampers with its kernel writes such."""
        data = self._rest + data
        at = 0
        while len(data) - at >= _HEADER:
            kind, size = data[at], int.from_bytes(data[at + 1 : at + _HEADER], "big")
            if kind not in (_STDOUT, _STDERR, _MESSAGE) or size > _MAX_FRAME:
                self._rest = b""
                return
            end = at + _HEADER + size
            if end > len(data):
                break
            self._take(kind, data[at + _HEADER : end])
            at = end
        self._rest = data[at:]

    def _take(self, number: int, content: bytes) -> None:
        if number != _MESSAGE:
            self._texts[number].write(content)
            return
        try:
            message = json.loads(content)
            kind, about = message["kind"], json.dumps(message["content"]).encode()
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # as above
        if isinstance(kind, str):
            self._on_written(kind, about)


class _Text:
    """One stream's bytes, which end anywhere, as text."""

    def __init__(self, name: str, on_written: OnWritten) -> None:
        self._name, self._on_written = name, on_written
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        if text:
            self._on_written("stream", json.dumps({"name": self._name, "text": text}).encode())


class Pipe:
    """A named pipe with frames, read by the event loop."""

    def __init__(self, path: Path, on_written: OnWritten) -> None:
        """Makes it. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(on_written)
        os.mkfifo(path, 0o600)
        # Open for writing too: so it has no end, and whoever opens it to write need not wait.
        self._end = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._open = True
        self._loop.add_reader(self._end, self._read)

    def read_rest(self) -> None:
        """Reads what was written until now; what is being written meanwhile perhaps."""
        left = 2 * _PIPE
        while left > 0 and (read := self._read()):
            left -= read

    def close(self) -> None:
        """Nothing is called any more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._end)
            os.close(self._end)

    def _read(self) -> int:
        if not self._open:
            return 0
        try:
            data = os.read(self._end, _READ)
        except BlockingIOError:
            return 0
        self._frames.feed(data)
        return len(data)
