"""The near ends of transfers: what is read for an upload, and where a download goes."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import IO

from cellyard.errors import InvalidRequest

PART = 256 * 1024
"""Bytes of one part of an upload."""

Local = str | os.PathLike[str]
Content = Local | bytes | bytearray | memoryview


class Source:
    """What is uploaded: bytes, or a file here, as many bytes as it has when it is opened."""

    def __init__(self, content: memoryview | None, file: int, size: int) -> None:
        self.size = size
        self.failure: Exception | None = None
        """Why it could not be read to its end."""
        self._content, self._file = content, file

    def part(self, offset: int) -> bytes:
        """The part that begins there; empty where it cannot be read, see `failure`."""
        length = min(PART, self.size - offset)
        if self._content is not None:
            return bytes(self._content[offset : offset + length])
        try:
            part = os.pread(self._file, length, offset)
        except OSError as failed:
            self.failure = failed
            return b""
        if not part:
            self.failure = InvalidRequest(f"the file was cut while it was uploaded: {offset} of {self.size} bytes")
        return part


@contextlib.contextmanager
def source(content: Content) -> Iterator[Source]:
    """What is to be uploaded, open as long as the block runs. Raises OSError, InvalidRequest for what is no file."""
    if isinstance(content, bytes | bytearray | memoryview):
        view = memoryview(content).cast("B")
        yield Source(view, -1, len(view))
        return
    if not isinstance(content, str | os.PathLike):
        raise InvalidRequest(f"what is uploaded is a local path or bytes, not {type(content).__name__}")
    file = os.open(content, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise InvalidRequest(f"{os.fspath(content)!r} is no plain file")
        yield Source(None, file, about.st_size)
    finally:
        os.close(file)


class Sink:
    """Where a download goes: into memory, or beside its place here until it is whole."""

    def __init__(self, local: Local | None) -> None:
        self._local = None if local is None else os.fspath(local)
        self._content = bytearray()
        self._temporary = ""
        self._file: IO[bytes] | None = None

    def begin(self) -> None:
        """From the start, whatever came before. Raises OSError."""
        self._content.clear()
        if self._local is None:
            return
        if self._file is None:
            folder, name = os.path.split(self._local)
            self._temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}")
            self._file = open(self._temporary, "xb")  # noqa: SIM115  (open until it is whole)
        self._file.seek(0)
        self._file.truncate()

    def add(self, part: bytes) -> None:
        """More of it."""
        if self._file is None:
            self._content += part
        else:
            self._file.write(part)

    def finish(self) -> bytes | None:
        """It is whole: the bytes, or None where they are in their place now."""
        if self._local is None or self._file is None:
            return bytes(self._content)
        self._file.close()
        self._file = None
        os.replace(self._temporary, self._local)
        return None

    def close(self) -> None:
        """What is not whole goes."""
        if self._file is not None:
            self._file.close()
            self._file = None
            os.unlink(self._temporary)
