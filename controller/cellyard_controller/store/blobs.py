"""Large parts of outputs, and artifacts, each once, under the hash of its content. The interface, and what is common.

Two places for them: files in a folder (`BlobFiles`), or rows of the database (`BlobRows`). What a transaction refers to
is kept on the store's writer thread, in that transaction, and is on disk when it is committed. What nothing refers to
is swept there too, and only while no transaction is in work that may come to refer to something: the writer's own are
done one after the other, and where several controllers share a database a lock in it says so.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from cellyard_controller.store.errors import StoreFailed

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
UNFINISHED = "unfinished-"
"""How files are called that have no other name yet."""
_STEP = 1024 * 1024
"""Characters that are encoded at a time: a large text is never there a second time as a whole."""


class Blobs(Protocol):
    """Contents by their digests. What takes a connection belongs to its transaction, on the writer's thread."""

    def open(self) -> None:
        """Makes what is needed, and removes what a crash left half written. Raises OSError."""

    def keep(self, connection: Connection, digest: str, text: str) -> None:
        """Keeps a text, unless it is there. Raises StoreFailed."""

    def keep_pieces(self, connection: Connection, pieces: Iterable[str]) -> tuple[str, int]:
        """Keeps a text that nobody has as a whole; its digest and size in bytes, as `measure` gives them.

        Raises StoreFailed.
        """

    def incoming(self) -> Incoming:
        """Takes a content in. Blocks; raises StoreFailed."""

    def take(self, connection: Connection, incoming: Incoming, digest: str) -> None:
        """Keeps a content that is whole under its digest. Raises StoreFailed."""

    def nameless(self) -> int:
        """The descriptor of a new file on this machine that is gone when it is closed. Raises OSError."""

    def open_file(self, digest: str) -> FileIO:
        """A content, to be read; open it stays readable when it is removed. Blocks.

        Raises FileNotFoundError where it is gone, OSError.
        """

    def text(self, digest: str) -> str:
        """A whole content. Blocks; raises OSError."""

    def total(self, connection: Connection, digests: Iterable[str]) -> int:
        """Bytes of contents, without those that are gone. On any connection."""

    def measure(self) -> int:
        """Bytes of all contents. Blocks; raises OSError."""

    def prefixes(self) -> list[str]:
        """The first two digits of the hashes that there are. Blocks; raises OSError."""

    def stored(self, connection: Connection, prefix: str) -> Iterator[str]:
        """The digests that begin so. On any connection; raises OSError."""

    def removing(self) -> AbstractContextManager[bool]:
        """Whether contents may be removed now: not while somebody makes a copy. Raises OSError."""

    def remove(self, connection: Connection, digests: Iterable[str]) -> None:
        """Removes contents that nothing refers to. Raises OSError."""


def is_digest(text: str) -> bool:
    """Whether it has the form of a digest; what has not must never become a path."""
    return _DIGEST.fullmatch(text) is not None


def measure(text: str) -> tuple[str, int]:
    """Digest and size in bytes of a text in UTF-8."""
    digest, size = hashlib.sha256(), 0
    for piece in encoded(text):
        digest.update(piece)
        size += len(piece)
    return f"sha256:{digest.hexdigest()}", size


class Incoming:
    """A content that comes piece by piece. Blocks. `close` it, whatever came of it."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreFailed."""
        try:
            descriptor, self._name = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)  # 0600
        except OSError as failed:
            raise refused(failed) from failed
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
                raise refused(failed) from failed
            self._hash.update(content)
            self.size += len(content)

    def finish(self) -> str:
        """It is whole, and is on disk when this returns; its digest. Raises StoreFailed."""
        with self._turn:
            try:
                os.fsync(self._file.fileno())
            except OSError as failed:
                raise refused(failed) from failed
            return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Lets go of it; unless it was taken, it is removed."""
        with self._turn:
            self._file.close()
        Path(self._name).unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """The file that it comes to."""
        return Path(self._name)

    def move(self, path: Path) -> None:
        """Gives it its name. Raises OSError."""
        os.rename(self._name, path)


def nameless(folder: Path) -> int:
    """The descriptor of a new file in this folder that is gone when it is closed. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)  # 0600
    os.unlink(name)
    return descriptor


def encoded(text: str) -> Iterator[bytes]:
    """A text in UTF-8, piece by piece."""
    for start in range(0, len(text), _STEP):
        yield text[start : start + _STEP].encode()


def refused(failed: OSError) -> StoreFailed:
    """What a caller is told where the disk does not take a content."""
    return StoreFailed(f"the store does not take writes: a large output or artifact: {failed.strerror or failed}")
