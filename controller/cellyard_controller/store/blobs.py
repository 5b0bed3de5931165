"""Large parts of outputs, and artifacts, as files, each once, under the hash of its content: `blobs/ab/cdef...`.

A file is whole and on disk before the transaction that refers to it is committed. Files come under their names and are
removed on the store's writer thread alone: so a file that is not referred to between two transactions belongs to
nobody, and one that a transaction in work has just put there cannot be taken for such a one. What comes piece by piece
from outside is written beside them, by whoever receives it, and only gets its name there.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

from cellyard_controller.store.errors import StoreFailed

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")
_UNFINISHED = "unfinished-"
_STEP = 1024 * 1024
"""Characters that are encoded at a time: a large text is never there a second time as a whole."""


def is_digest(text: str) -> bool:
    """Whether it has the form of a digest; what has not must never become a path."""
    return _DIGEST.fullmatch(text) is not None


def measure(text: str) -> tuple[str, int]:
    """Digest and size in bytes of a text in UTF-8."""
    digest, size = hashlib.sha256(), 0
    for piece in _encoded(text):
        digest.update(piece)
        size += len(piece)
    return f"sha256:{digest.hexdigest()}", size


class Incoming:
    """A content that comes piece by piece. Blocks. `close` it, whatever came of it."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreFailed."""
        try:
            descriptor, self._name = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)  # 0600
        except OSError as failed:
            raise _refused(failed) from failed
        self._file = FileIO(descriptor, "wb")
        self._hash = hashlib.sha256()
        self._turn = threading.Lock()  # who gives up may close it while another thread still writes
        self.size = 0
        """Bytes of it so far."""

    def write(self, content: bytes) -> None:
        """More of it. Raises StoreFailed."""
        rest = memoryview(content)
        with self._turn:
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as failed:
                raise _refused(failed) from failed
            self._hash.update(content)
            self.size += len(content)

    def finish(self) -> str:
        """It is whole, and is on disk when this returns; its digest. Raises StoreFailed."""
        with self._turn:
            try:
                os.fsync(self._file.fileno())
            except OSError as failed:
                raise _refused(failed) from failed
            return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Lets go of it; unless it was taken, it is removed."""
        with self._turn:
            self._file.close()
        Path(self._name).unlink(missing_ok=True)

    def move(self, path: Path) -> None:
        """Gives it its name. Raises OSError."""
        os.rename(self._name, path)


class Blobs:
    """The files of one data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Makes the folder, and removes what a crash left half written. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._folder.chmod(0o700)
        for left in self._folder.glob(f"{_UNFINISHED}*"):
            left.unlink(missing_ok=True)

    def keep(self, digest: str, text: str) -> None:
        """Puts a text on disk, unless it is there. On the writer's thread; raises StoreFailed."""
        path = self._path(digest)
        try:
            if not path.exists():
                self._write(_encoded(text), lambda: path)
            _sync(path.parent)  # also of one that is there: who wrote it may have died before this
        except OSError as failed:
            raise _refused(failed) from failed

    def keep_pieces(self, pieces: Iterable[str]) -> tuple[str, int]:
        """Puts a text on disk that nobody has as a whole; its digest and size in bytes, as `measure` gives them.

        On the writer's thread; raises StoreFailed.
        """
        digest, size = hashlib.sha256(), 0

        def measured() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces:
                content = piece.encode()
                digest.update(content)
                size += len(content)
                yield content

        try:
            path = self._write(measured(), lambda: self._path(f"sha256:{digest.hexdigest()}"))
            _sync(path.parent)
        except OSError as failed:
            raise _refused(failed) from failed
        return f"sha256:{digest.hexdigest()}", size

    def incoming(self) -> Incoming:
        """Takes a content in. Blocks; raises StoreFailed."""
        return Incoming(self._folder)

    def take(self, incoming: Incoming, digest: str) -> None:
        """Puts a content that is whole under its digest. On the writer's thread, before the commit that refers to it.

        Raises StoreFailed.
        """
        path = self._path(digest)
        try:
            if not path.exists():
                self._make_folder(path)
                incoming.move(path)
            _sync(path.parent)  # also of one that is there: who wrote it may have died before this
        except OSError as failed:
            raise _refused(failed) from failed

    def nameless(self) -> int:
        """The descriptor of a new file that is gone when it is closed. Raises OSError."""
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)  # 0600
        os.unlink(name)
        return descriptor

    def open_file(self, digest: str) -> FileIO:
        """A content, to be read; open it stays readable when its file is removed. Raises FileNotFoundError."""
        return FileIO(self._path(digest))

    def text(self, digest: str) -> str:
        """A whole content. Raises OSError."""
        return self._path(digest).read_bytes().decode()

    def size(self, digest: str) -> int:
        """Bytes of a content; 0 where it is gone."""
        try:
            return self._path(digest).stat().st_size
        except OSError:
            return 0

    def prefixes(self) -> list[str]:
        """The folders that there are, by the first two digits of the hashes in them."""
        return sorted(entry.name for entry in os.scandir(self._folder) if _PREFIX.fullmatch(entry.name))

    def stored(self, prefix: str) -> Iterator[str]:
        """The digests in one of these folders."""
        for entry in os.scandir(self._folder / prefix):
            if _REST.fullmatch(entry.name):
                yield f"sha256:{prefix}{entry.name}"

    def remove(self, digests: Iterable[str]) -> None:
        """Removes files that nothing refers to. On the writer's thread; raises OSError."""
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _write(self, pieces: Iterable[bytes], target: Callable[[], Path]) -> Path:
        """A file of these pieces, at the path that is told when they are written."""
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._folder)  # 0600
        try:
            with open(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            path = target()
            self._make_folder(path)
            os.rename(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return path

    def _make_folder(self, path: Path) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700)
            _sync(self._folder)

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"no digest: {digest[:80]!r}")
        value = digest.removeprefix("sha256:")
        return self._folder / value[:2] / value[2:]


def _encoded(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), _STEP):
        yield text[start : start + _STEP].encode()


def _refused(failed: OSError) -> StoreFailed:
    return StoreFailed(f"the store does not take writes: a large output or artifact: {failed.strerror or failed}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
