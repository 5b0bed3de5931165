"""Large parts as files, each under the hash of its content: `blobs/ab/cdef...`, in the data folder or a shared one.

A file is whole and on disk before the transaction that refers to it is committed. What comes piece by piece from
outside is written beside them, by whoever receives it, and only gets its name on the writer's thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from sqlalchemy import Connection

from cellyard_controller.store import sweeping
from cellyard_controller.store.blobs import UNFINISHED, Incoming, encoded, is_digest, nameless, refused

_PREFIX = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")
_ABANDONED_S = 86400.0
"""A file of a shared folder that nobody has written to for so long is nobody's."""


class BlobFiles:
    """The files of one folder."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        """`shared`: other controllers have their files there too."""
        self._folder = folder
        self._shared = shared

    def open(self) -> None:
        """Makes the folder, and removes what a crash left half written. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=self._shared, exist_ok=True)
        if not self._shared:
            self._folder.chmod(0o700)
        for left in self._folder.glob(f"{UNFINISHED}*"):
            if not self._shared or _age(left) > _ABANDONED_S:
                left.unlink(missing_ok=True)

    def keep(self, connection: Connection, digest: str, text: str) -> None:
        """Puts a text on disk, unless it is there. On the writer's thread; raises StoreFailed."""
        sweeping.put_off(connection)
        path = self._path(digest)
        try:
            if not path.exists():
                self._write(encoded(text), lambda: path)
            _sync(path.parent)  # also of one that is there: who wrote it may have died before this
        except OSError as failed:
            raise refused(failed) from failed

    def keep_pieces(self, connection: Connection, pieces: Iterable[str]) -> tuple[str, int]:
        """Puts a text on disk that nobody has as a whole; its digest and size in bytes, as `measure` gives them.

        On the writer's thread; raises StoreFailed.
        """
        sweeping.put_off(connection)
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
            raise refused(failed) from failed
        return f"sha256:{digest.hexdigest()}", size

    def incoming(self) -> Incoming:
        """Takes a content in. Blocks; raises StoreFailed."""
        return Incoming(self._folder)

    def take(self, connection: Connection, incoming: Incoming, digest: str) -> None:
        """Puts a content that is whole under its digest. On the writer's thread, before the commit that refers to it.

        Raises StoreFailed.
        """
        sweeping.put_off(connection)
        path = self._path(digest)
        try:
            if not path.exists():
                self._make_folder(path)
                incoming.move(path)
            _sync(path.parent)  # also of one that is there: who wrote it may have died before this
        except OSError as failed:
            raise refused(failed) from failed

    def nameless(self) -> int:
        """The descriptor of a new file that is gone when it is closed. Raises OSError."""
        return nameless(self._folder)

    def open_file(self, digest: str) -> FileIO:
        """A content, to be read; open it stays readable when its file is removed. Raises FileNotFoundError."""
        return FileIO(self._path(digest))

    def text(self, digest: str) -> str:
        """A whole content. Raises OSError."""
        return self._path(digest).read_bytes().decode()

    def total(self, _connection: Connection, digests: Iterable[str]) -> int:
        """Bytes of contents, without those that are gone."""
        total = 0
        for digest in digests:
            try:
                total += self._path(digest).stat().st_size
            except OSError:
                pass  # gone
        return total

    def measure(self) -> int:
        """Bytes of all files. Raises OSError."""
        total = 0
        for prefix in self.prefixes():
            for entry in os.scandir(self._folder / prefix):
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    pass  # removed meanwhile
        return total

    def prefixes(self) -> list[str]:
        """The folders that there are, by the first two digits of the hashes in them."""
        return sorted(entry.name for entry in os.scandir(self._folder) if _PREFIX.fullmatch(entry.name))

    def stored(self, _connection: Connection, prefix: str) -> Iterator[str]:
        """The digests in one of these folders."""
        for entry in os.scandir(self._folder / prefix):
            if _REST.fullmatch(entry.name):
                yield f"sha256:{prefix}{entry.name}"

    @contextmanager
    def removing(self) -> Iterator[bool]:
        """Whether files may be removed now: not while somebody makes a copy. Raises OSError.

        Who copies the database and then its files shares the folder's lock, so that none is removed between.
        """
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def remove(self, _connection: Connection, digests: Iterable[str]) -> None:
        """Removes files that nothing refers to. On the writer's thread; raises OSError."""
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _write(self, pieces: Iterable[bytes], target: Callable[[], Path]) -> Path:
        """A file of these pieces, at the path that is told when they are written."""
        descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=self._folder)  # 0600
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
            path.parent.mkdir(mode=0o700, exist_ok=True)  # another controller may be as fast
            _sync(self._folder)

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"no digest: {digest[:80]!r}")
        value = digest.removeprefix("sha256:")
        return self._folder / value[:2] / value[2:]


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
