"""Files that nobody sees before they are whole, files that are read whatever comes in their place, and their errors."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cellyard.codemode.errors import StorageError

PIECE = 1 << 20
"""Bytes that are read at once."""
FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Of whatever is opened: no link is followed, and nobody is waited for."""
_STALE_S = 60.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Operating system's errors leave here as StorageError, with the path that they are about."""
    try:
        yield
    except OSError as failed:
        if failed.errno == errno.ELOOP:
            raise StorageError(f"{path} is a symbolic link or lies behind one, and storages follow none") from None
        if failed.errno == errno.ENOTDIR:  # which a link to a folder is, too
            raise StorageError(f"{path}: a file or a symbolic link lies where a folder should be") from None
        what = os.strerror(failed.errno) if failed.errno else str(failed)
        raise StorageError(f"{path}: {what}", retryable=failed.errno in _FULL) from None


class Fresh:
    """A file that is being written and that nobody sees yet."""

    def __init__(self, folder: int) -> None:
        self.token = secrets.token_hex(16)
        self.size = 0
        self._folder = folder
        self._descriptor = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o666, dir_fd=folder)
        self.keep = False
        """Left where it is at the end: an index speaks of it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # says for as long as the writer lives that it does

    def write(self, piece: bytes) -> None:
        """Appends."""
        left = memoryview(piece)
        while left:
            written = os.write(self._descriptor, left[: 8 * PIECE])
            self.size += written
            left = left[written:]

    def sync(self) -> None:
        """Brings it to disk."""
        os.fsync(self._descriptor)

    def put(self, folder: int, name: str) -> None:
        """Gives it its name."""
        os.rename(self.token, name, src_dir_fd=self._folder, dst_dir_fd=folder)
        os.fsync(folder)

    def close(self) -> None:
        """Removes it where it was not put in place."""
        if not self.keep:
            with suppress(FileNotFoundError):
                os.unlink(self.token, dir_fd=self._folder)
        os.close(self._descriptor)


class Pieces(Iterator[bytes]):
    """An open file's content. Another file put in its place changes nothing of it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor: int | None = descriptor
        self._path = path

    def __next__(self) -> bytes:
        if self._descriptor is not None:
            with told(self._path):
                piece = os.read(self._descriptor, PIECE)
            if piece:
                return piece
            self.close()
        raise StopIteration

    def close(self) -> None:
        """Lets go of the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def remove_stale(new: int, token: str) -> None:
    """Removes a fresh file whose writer has ended."""
    with suppress(OSError):  # somebody else has it, or was faster
        if time.time() - os.stat(token, dir_fd=new, follow_symlinks=False).st_mtime < _STALE_S:
            return  # its writer may be about to lock it
        descriptor = os.open(token, os.O_WRONLY | FLAGS, dir_fd=new)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(token, dir_fd=new)
        finally:
            os.close(descriptor)
