"""Sources in automerge: as Text whose edits merge, or as one value where Text would cost too much.

A character of Text is an element of its own, because automerge takes what one call inserts as one element, which no
later edit can split. That costs some microseconds and half a kilobyte of memory a character, now and whenever the
document is loaded, and nothing else in the process runs while it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from automerge import core

LARGEST_TEXT = 20_000
"""Characters of a source that is kept as Text."""
ALL_TEXT = 200_000
"""Characters of all Text of a document."""
_Str = core.ScalarType.Str


class Sources:
    """The sources of a document's cells; cells are given by their automerge ids."""

    def __init__(self, document: core.Document, cells: Iterable[bytes]) -> None:
        self._document = document
        self._all_text = sum(self.text_length(cell) for cell in cells)

    def read(self, cell: bytes, at: list[bytes] | None = None) -> str:
        """A source, as it is or as it was in the state that these heads name."""
        text = self._text(cell, at)
        return self._value(cell, at) if text is None else self._document.text(text, at)

    def length(self, cell: bytes) -> int:
        """Its characters."""
        text = self._text(cell)
        return len(self._value(cell)) if text is None else self._document.length(text)

    def put(self, change: core.Transaction, cell: bytes, source: str) -> None:
        """Writes the source of a cell that has none."""
        if self._fits(len(source)):
            _insert(change, change.put_object(cell, "source", core.ObjType.Text), 0, source)
            self._all_text += len(source)
        else:
            change.put(cell, "source", _Str, source)

    def splice(self, change: core.Transaction, cell: bytes, start: int, end: int, new: str) -> None:
        """Replaces the characters from `start` to `end`."""
        text, length = self._text(cell), self.text_length(cell)
        grows = len(new) - (end - start)
        if text is not None and self._fits(length + grows, instead_of=length):
            for _ in range(start, end):
                change.delete(text, start)
            _insert(change, text, start, new)
            self._all_text += grows
        else:
            source = self.read(cell)
            self.remove(cell)
            self.put(change, cell, source[:start] + new + source[end:])

    def remove(self, cell: bytes) -> None:
        """This cell's source goes."""
        self._all_text -= self.text_length(cell)

    def text_length(self, cell: bytes) -> int:
        """Characters of a source that is Text; 0 for one that is not."""
        text = self._text(cell)
        return 0 if text is None else self._document.length(text)

    def note(self, grown: int) -> None:
        """Text was written elsewhere: it has `grown` characters more."""
        self._all_text += grown

    def _fits(self, length: int, *, instead_of: int = 0) -> bool:
        return length <= LARGEST_TEXT and self._all_text - instead_of + length <= ALL_TEXT

    def _text(self, cell: bytes, at: list[bytes] | None = None) -> bytes | None:
        found = self._document.get(cell, "source", at)
        return found[1] if found is not None and found[0] == core.ObjType.Text else None

    def _value(self, cell: bytes, at: list[bytes] | None = None) -> str:
        found = self._document.get(cell, "source", at)
        assert found is not None
        return str(cast("tuple[Any, str]", found[0])[1])


def span(old: str, new: str) -> tuple[int, int, str]:
    """The one span old[start:end] to replace, and what with, so that old becomes new."""
    shorter = min(len(old), len(new))
    start = _common(old, new, shorter)
    tail = _common(old[::-1], new[::-1], shorter - start)
    return start, len(old) - tail, new[start : len(new) - tail]


def _common(one: str, other: str, most: int) -> int:
    """How many characters both begin with, `most` at most."""
    known = 0
    while known < most:
        middle = (known + most + 1) // 2
        if one[known:middle] == other[known:middle]:
            known = middle
        else:
            most = middle - 1
    return known


def _insert(change: core.Transaction, text: bytes, at: int, new: str) -> None:
    for offset, character in enumerate(new):
        change.insert(text, at + offset, _Str, character)
