"""What the code in a Deno kernel writes: a pipe of frames from its main thread, and the process's own stdout."""

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

    def _take(self, kind: int, content: bytes) -> None:
        if kind != _MESSAGE:
            self._texts[kind].write(content)
            return
        try:
            message = json.loads(content)
            self._on_written(message["kind"], json.dumps(message["content"]).encode())
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # as above


class _Text:
    """One stream's bytes, which end anywhere, as text."""

    def __init__(self, name: str, on_written: OnWritten) -> None:
        self._name, self._on_written = name, on_written
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        if text:
            self._on_written("stream", json.dumps({"name": self._name, "text": text}).encode())


class Pipes:
    """Two named pipes in a folder, read by the event loop."""

    def __init__(self, folder: Path, on_written: OnWritten) -> None:
        """Makes them. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self.frames, self.stdout = folder / "frames", folder / "stdout"
        self._taken = {self.frames: Frames(on_written).feed, self.stdout: _Text("stdout", on_written).write}
        self._open: dict[int, Callable[[bytes], None]] = {}
        try:
            for path, take in self._taken.items():
                os.mkfifo(path, 0o600)
                # Open for writing too: so it has no end, and whoever opens it to write need not wait.
                end = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._open[end] = take
                self._loop.add_reader(end, self._read, end)
        except OSError:
            self.close()
            raise

    def read_rest(self) -> None:
        """Reads what was written until now; what is being written meanwhile perhaps."""
        for end in list(self._open):
            left = 2 * _PIPE
            while left > 0 and end in self._open and (read := self._read(end)):
                left -= read

    def close(self) -> None:
        """Nothing is called any more."""
        for end in self._open:
            self._loop.remove_reader(end)
            os.close(end)
        self._open = {}

    def _read(self, end: int) -> int:
        try:
            data = os.read(end, _READ)
        except BlockingIOError:
            return 0
        self._open[end](data)
        return len(data)
