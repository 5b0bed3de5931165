"""Large parts as rows of the database, in pieces: for controllers that share no folder.

They come and go in the transactions that refer to them. Who reads one gets a copy in a file of this machine that has no
name: so none is ever in memory as a whole, and a slow reader holds no transaction open.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import DBAPIError

from cellyard_controller.store import dialects, sweeping
from cellyard_controller.store.blobs import UNFINISHED, Incoming, is_digest, nameless, refused
from cellyard_controller.store.errors import read_failure
from cellyard_controller.store.schema import blob_pieces, blobs

_PIECE = 1024 * 1024
"""Bytes of a row."""
_AT_A_TIME = 1000
"""Digests that are asked for in one statement."""


class BlobRows:
    """The contents in one database."""

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[Connection]],
        spool: Path,
        goes_on: Callable[[], None] = lambda: None,
    ) -> None:
        """`reading`: gives a connection that sees one moment. `spool`: a folder of this controller's own.

        `goes_on`: is told of each piece that was written.
        """
        self._reading, self._spool, self._goes_on = reading, spool, goes_on

    def open(self) -> None:
        """Makes the folder, and empties it. Raises OSError."""
        self._spool.mkdir(mode=0o700, exist_ok=True)
        for left in self._spool.glob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)

    def keep(self, connection: Connection, digest: str, text: str) -> None:
        """Keeps a text, unless it is there. In the writer's transaction."""
        content = text.encode()
        self._put(connection, digest, len(content), _cut(content))

    def keep_pieces(self, connection: Connection, pieces: Iterable[str]) -> tuple[str, int]:
        """Keeps a text that nobody has as a whole; its digest and size. In the writer's transaction.

        Raises StoreFailed.
        """
        digest = hashlib.sha256()
        try:
            with FileIO(self.nameless(), "r+b") as file:
                for piece in pieces:
                    content = piece.encode()
                    digest.update(content)
                    _write(file, content)
                size = file.tell()
                name = f"sha256:{digest.hexdigest()}"
                self._put(connection, name, size, _pieces(file))
        except OSError as failed:
            raise refused(failed) from failed
        return name, size

    def incoming(self) -> Incoming:
        """Takes a content in. Blocks; raises StoreFailed."""
        return Incoming(self._spool)

    def take(self, connection: Connection, incoming: Incoming, digest: str) -> None:
        """Keeps a content that is whole under its digest. In the writer's transaction; raises StoreFailed."""
        try:
            with FileIO(incoming.path) as file:
                self._put(connection, digest, incoming.size, _pieces(file))
        except OSError as failed:
            raise refused(failed) from failed

    def nameless(self) -> int:
        """The descriptor of a new file that is gone when it is closed. Raises OSError."""
        return nameless(self._spool)

    def open_file(self, digest: str) -> FileIO:
        """A copy of a content, to be read. Raises FileNotFoundError, OSError."""
        file = FileIO(self.nameless(), "r+b")
        try:
            with self._reading() as connection:
                if connection.execute(select(blobs.c.digest).where(blobs.c.digest == digest)).first() is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), digest)
                for piece in _stored(connection, digest):
                    _write(file, piece)
        except DBAPIError as failed:
            file.close()
            raise OSError(errno.EIO, read_failure(failed)) from failed
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def text(self, digest: str) -> str:
        """A whole content. Raises OSError."""
        with self.open_file(digest) as file:
            return file.readall().decode()

    def total(self, connection: Connection, digests: Iterable[str]) -> int:
        """Bytes of contents, without those that are gone."""
        wanted, sizes = list(digests), select(func.coalesce(func.sum(blobs.c.size), 0))
        parts = (wanted[start : start + _AT_A_TIME] for start in range(0, len(wanted), _AT_A_TIME))
        return sum(int(connection.execute(sizes.where(blobs.c.digest.in_(some))).scalar_one()) for some in parts)

    def measure(self) -> int:
        """Bytes of all contents. Raises OSError."""
        with self._looking() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(blobs.c.size), 0))).scalar_one())

    def prefixes(self) -> list[str]:
        """The first two digits of the hashes that there are. Raises OSError."""
        digits = func.substr(blobs.c.digest, len("sha256:") + 1, 2)
        with self._looking() as connection:
            return sorted(connection.execute(select(digits).distinct()).scalars())

    def stored(self, connection: Connection, prefix: str) -> Iterator[str]:
        """The digests that begin so."""
        first = f"sha256:{prefix}"
        found = select(blobs.c.digest).where(blobs.c.digest >= first, blobs.c.digest < f"{first}g")
        yield from connection.execute(found).scalars()

    @contextmanager
    def removing(self) -> Iterator[bool]:
        """A copy of the database has them in it, so they may be removed."""
        yield True

    def remove(self, connection: Connection, digests: Iterable[str]) -> None:
        """Removes contents that nothing refers to, with their pieces."""
        connection.execute(delete(blobs).where(blobs.c.digest.in_(list(digests))))

    def _put(self, connection: Connection, digest: str, size: int, pieces: Iterable[bytes]) -> None:
        if not is_digest(digest):
            raise ValueError(f"no digest: {digest[:80]!r}")
        sweeping.put_off(connection)
        new = dialects.insert(connection, blobs).values(digest=digest, size=size).on_conflict_do_nothing()
        if connection.execute(new.returning(blobs.c.digest)).first() is not None:  # else it is there
            add = insert(blob_pieces)
            for number, content in enumerate(pieces):
                connection.execute(add, {"digest": digest, "number": number, "content": content})
                self._goes_on()

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        try:
            with self._reading() as connection:
                yield connection
        except DBAPIError as failed:
            raise OSError(errno.EIO, read_failure(failed)) from failed


def _stored(connection: Connection, digest: str) -> Iterator[bytes]:
    number = 0
    while True:
        this = (blob_pieces.c.digest == digest) & (blob_pieces.c.number == number)
        piece = connection.execute(select(blob_pieces.c.content).where(this)).scalar()
        if piece is None:
            return
        yield piece
        number += 1


def _cut(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


def _pieces(file: FileIO) -> Iterator[bytes]:
    file.seek(0)
    while content := file.read(_PIECE):
        yield content


def _write(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
