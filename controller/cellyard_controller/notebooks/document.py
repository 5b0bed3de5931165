"""The notebook's document on automerge: cells by id, their order, and metadata. Outputs are not in it.

    ROOT
      schema: 1
      cells: {cell id -> {type, position, source: Text, metadata: {key -> JSON text}}}
      metadata: {key -> text}

Order is (position, cell id); positions are fractional indexes, so moving a cell writes one value. Every change is
one automerge change, handed out by `take_change` for the store. Not thread-safe: the room's task alone uses it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from automerge import core
from fractional_indexing import generate_key_between

from cellyard_controller.errors import CellChanged, CellNotFound, InvalidRequest
from cellyard_controller.ids import CellId

CELL_TYPES = ("code", "markdown", "raw")
_SCHEMA = 1
_ROOT = core.ROOT
_Str, _Int = core.ScalarType.Str, core.ScalarType.Int


class DocumentDamaged(Exception):
    """The stored bytes are no document of this kind."""


@dataclass(frozen=True, slots=True)
class DocumentCell:
    """A cell as the document has it."""

    cell_id: CellId
    cell_type: str
    source: str
    metadata: dict[str, Any]

    @property
    def version(self) -> str:
        """Changes with the source; for compare-and-set."""
        return hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Document:
    """One notebook's document."""

    def __init__(self, document: core.Document) -> None:
        self._document = document
        self._taken: list[bytes] = document.get_heads()
        self._cells = self._map(_ROOT, "cells")
        self._metadata = self._map(_ROOT, "metadata")
        # Sorted (position, cell id): reading every position for every new cell would slow long notebooks down.
        self._order = sorted(
            (self._text(self._find(CellId(cell)), "position"), cell) for cell in document.keys(self._cells)
        )

    @classmethod
    def new(cls) -> Document:
        """An empty document; its first change makes the skeleton."""
        document = core.Document()
        with document.transaction() as change:
            change.put(_ROOT, "schema", _Int, _SCHEMA)
            change.put_object(_ROOT, "cells", core.ObjType.Map)
            change.put_object(_ROOT, "metadata", core.ObjType.Map)
        created = cls(document)
        created._taken = []
        return created

    @classmethod
    def load(cls, chunks: list[bytes]) -> Document:
        """A document from what `save` and `take_change` gave, in order. Raises DocumentDamaged."""
        try:
            return cls(core.Document.load(b"".join(chunks)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as damaged:  # automerge panics with exceptions that are no Exception
            raise DocumentDamaged(f"the stored document cannot be read: {damaged}") from damaged

    def save(self) -> bytes:
        """The whole document in one chunk."""
        return self._document.save()

    def take_change(self) -> bytes:
        """What was changed since the last call, for appending to the stored chunks; empty for nothing."""
        changes = self._document.get_changes(self._taken)
        self._taken = self._document.get_heads()
        return b"".join(change.bytes for change in changes)

    # Reading

    def cell_ids(self) -> list[CellId]:
        """Ids in document order."""
        return [CellId(cell_id) for _, cell_id in self._order]

    def cells(self) -> list[DocumentCell]:
        """All cells in document order."""
        return [self.cell(cell_id) for cell_id in self.cell_ids()]

    def has_cell(self, cell_id: CellId) -> bool:
        """Whether the cell is there."""
        return self._document.get(self._cells, cell_id) is not None

    def cell(self, cell_id: CellId) -> DocumentCell:
        """One cell. Raises CellNotFound."""
        found = self._find(cell_id)
        metadata = self._map(found, "metadata")
        return DocumentCell(
            cell_id=cell_id,
            cell_type=self._text(found, "type"),
            source=self._document.text(self._source(found)),
            metadata={key: json.loads(self._text(metadata, key)) for key in self._document.keys(metadata)},
        )

    def metadata(self, key: str) -> str | None:
        """One value of the notebook's metadata, None where it is not set."""
        return self._text(self._metadata, key) if self._document.get(self._metadata, key) else None

    # Writing

    def insert_cell(
        self,
        cell_id: CellId,
        cell_type: str,
        source: str,
        index: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Adds a cell at `index`, or at the end. Raises InvalidRequest where the id is taken or the type unknown."""
        if cell_type not in CELL_TYPES:
            raise InvalidRequest(f"unsupported cell type {cell_type!r}: one of {', '.join(CELL_TYPES)}")
        if self.has_cell(cell_id):
            raise InvalidRequest(f"a cell {cell_id!r} exists already", cell_id=cell_id)
        position = self._position_at(index)
        with self._change() as change:
            cell = change.put_object(self._cells, cell_id, core.ObjType.Map)
            change.put(cell, "type", _Str, cell_type)
            change.put(cell, "position", _Str, position)
            text = change.put_object(cell, "source", core.ObjType.Text)
            _insert(change, text, 0, source)
            values = change.put_object(cell, "metadata", core.ObjType.Map)
            for key, value in (metadata or {}).items():
                change.put(values, key, _Str, json.dumps(value))
        insort(self._order, (position, cell_id))

    def set_source(self, cell_id: CellId, source: str, if_version: str = "") -> None:
        """Writes the whole source as the smallest change of one span. Raises CellNotFound, CellChanged."""
        current = self.cell(cell_id)
        if if_version and current.version != if_version:
            raise CellChanged(f"cell {cell_id!r} was changed by somebody else", cell_id=cell_id)
        start, end, new = _span(current.source, source)
        if start == end and not new:
            return
        text = self._source(self._find(cell_id))
        with self._change() as change:
            for _ in range(start, end):
                change.delete(text, start)
            _insert(change, text, start, new)

    def delete_cell(self, cell_id: CellId) -> None:
        """Removes a cell. Raises CellNotFound."""
        position = self._text(self._find(cell_id), "position")
        with self._change() as change:
            change.delete(self._cells, cell_id)
        self._order.remove((position, cell_id))

    def set_metadata(self, key: str, value: str) -> None:
        """Sets one value of the notebook's metadata."""
        if self.metadata(key) != value:
            with self._change() as change:
                change.put(self._metadata, key, _Str, value)

    # Inside

    @contextmanager
    def _change(self) -> Iterator[core.Transaction]:
        with self._document.transaction() as change:
            yield change

    def _map(self, parent: bytes, key: str) -> bytes:
        found = self._document.get(parent, key)
        if found is None or found[0] != core.ObjType.Map:
            raise DocumentDamaged(f"the document has no map {key!r}")
        return found[1]

    def _find(self, cell_id: CellId) -> bytes:
        found = self._document.get(self._cells, cell_id)
        if found is None:
            raise CellNotFound(f"cell {cell_id!r} not found", cell_id=cell_id)
        return found[1]

    def _source(self, cell: bytes) -> bytes:
        found = self._document.get(cell, "source")
        assert found is not None
        return found[1]

    def _text(self, parent: bytes, key: str) -> str:
        found = self._document.get(parent, key)
        assert found is not None
        return str(cast("tuple[core.ScalarType, core.ScalarValue]", found[0])[1])

    def _position_at(self, index: int | None) -> str:
        at = len(self._order) if index is None else min(index, len(self._order))
        before = self._order[at - 1][0] if at > 0 else None
        # Two cells may share a position after a merge; the next greater one makes room behind both.
        behind = (self._order[n][0] for n in range(at, len(self._order)))
        after = next((position for position in behind if before is None or position > before), None)
        return str(generate_key_between(before, after))


def _insert(change: core.Transaction, text: bytes, at: int, new: str) -> None:
    """Character by character: automerge takes what one call inserts as one element, which no later edit can split.

    Some microseconds a character, so long sources belong on a thread.
    """
    for offset, character in enumerate(new):
        change.insert(text, at + offset, _Str, character)


def _span(old: str, new: str) -> tuple[int, int, str]:
    """The one span old[start:end] to replace, and what with, so that old becomes new."""
    start = 0
    shorter = min(len(old), len(new))
    while start < shorter and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < shorter - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return start, len(old) - tail, new[start : len(new) - tail]
