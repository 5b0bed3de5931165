"""The text of a stream that is too long to be held in memory: in a file without a name, until it is stored whole."""

from __future__ import annotations

import codecs
import itertools
import os
from collections.abc import Iterator

from sqlalchemy import Connection

from cellyard_controller.store.blobs import Blobs
from cellyard_proto.outputs import BlobRef
from cellyard_proto.stream_text import CONTROLS, StreamText, apply_controls_to

HELD = 512 * 1024
"""Characters of a text that are held in memory before they go to its file."""
_PIECE = 512 * 1024


class SpooledText(StreamText):
    """A stream's text as it comes. Events tell it too, on disk: what is lost with the process is read from them.

    Where the disk takes no more, it is held in memory, whose bound is the limit of output.
    """

    def __init__(self, blobs: Blobs) -> None:
        super().__init__()
        self._blobs = blobs
        self._held = 0
        self._file: int | None = None
        self._size = 0
        self._controls = False

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    @property
    def in_file(self) -> bool:  # type: ignore[override]
        """Whether a part of it is in the file."""
        return self._size > 0

    def append(self, chunk: str) -> None:
        """More of it."""
        super().append(chunk)
        self._held += len(chunk)
        if self._held >= HELD:
            self._spool()

    def whole(self) -> str:
        """All of it, as it came."""
        held = super().whole()
        return "".join([*self._stored(), held]) if self.in_file else held

    def keep(self, connection: Connection, large: int) -> BlobRef | str:
        """Puts it on disk as it is shown; what is shown of it where that is no more than `large` characters.

        In the store writer's transaction; raises StoreFailed.
        """
        controls = self._controls or CONTROLS.search(super().whole())
        pieces = apply_controls_to(self._pieces()) if controls else self._pieces()
        first: list[str] = []
        for piece in pieces:
            first.append(piece)
            if sum(map(len, first)) > large:
                return BlobRef(*self._blobs.keep_pieces(connection, itertools.chain(first, pieces)))
        return "".join(first)

    def _pieces(self) -> Iterator[str]:
        yield from self._stored()
        yield super().whole()

    def _stored(self) -> Iterator[str]:
        if self._file is None:
            return
        decode = codecs.getincrementaldecoder("utf-8")().decode
        place = 0
        while place < self._size and (content := os.pread(self._file, min(_PIECE, self._size - place), place)):
            place += len(content)
            yield decode(content)

    def _spool(self) -> None:
        text = super().whole()
        content = memoryview(text.encode())
        try:
            if self._file is None:
                self._file = self._blobs.nameless()
            written = 0
            while written < len(content):
                written += os.pwrite(self._file, content[written:], self._size + written)
        except OSError:
            return  # what was written of it lies behind the size, and is written over
        self._controls = self._controls or CONTROLS.search(text) is not None
        self._size += len(content)
        self._chunks, self._held = [], 0
