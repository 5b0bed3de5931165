"""The notebook's document on automerge: cells by id, their order, and metadata. Outputs are not in it.

    ROOT
      schema: 1
      nbformat_minor: 0 to 5; absent means 5
      cells: {cell id -> {type, position, source: Text or text, metadata: {key -> JSON text},
                          attachments: JSON text or absent, cleared: execution id or absent}}
      metadata: {key -> text}; the key `notebook_metadata` is nbformat's metadata as JSON text

Order is (position, cell id); positions are fractional indexes, so moving a cell writes one value. A source is Text,
whose edits merge, or one value where it is large or the notebook has much Text already: each character of Text costs.
`cleared` names the execution whose outputs somebody does not want to see any more. Every change is one automerge
change, handed out by `take_change` for the store. Not thread-safe: the room's task alone uses it.
"""

from __future__ import annotations

import json
from bisect import insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from automerge import core
from fractional_indexing import generate_n_keys_between

from cellyard_controller.errors import CellChanged, InvalidRequest
from cellyard_controller.ids import CellId, ExecutionId
from cellyard_controller.notebooks import document_touched, document_versions
from cellyard_controller.notebooks.document_reading import (
    CELL_TYPES,
    NBFORMAT_MINOR,
    NOTEBOOK_METADATA,
    DocumentCell,
    DocumentDamaged,
    Reading,
)
from cellyard_controller.notebooks.document_touched import Touched
from cellyard_controller.notebooks.document_versions import TooNew
from cellyard_proto.document import sync
from cellyard_proto.document.schema import stored_key
from cellyard_proto.document.text import span

__all__ = [
    "CELL_TYPES",
    "NBFORMAT_MINOR",
    "NOTEBOOK_METADATA",
    "Document",
    "DocumentCell",
    "DocumentDamaged",
    "Splice",
]

_TAKEN_AT_ONCE = 50
"""A replica's changes in one call: the interpreter's lock is held meanwhile."""
_ROOT = core.ROOT
_Str, _Int = core.ScalarType.Str, core.ScalarType.Int


@dataclass(frozen=True, slots=True)
class Splice:
    """An edit of a part of a source: `text` instead of `delete_count` characters from `index` on."""

    index: int | None
    """In Unicode code points; None is the end."""
    delete_count: int
    text: str
    max_bytes: int
    """What the source may have afterwards."""


class Document(Reading):
    """One notebook's document."""

    def __init__(self, document: core.Document) -> None:
        super().__init__(document)
        self._taken: list[bytes] = document.get_heads()
        # What was touched here since one state up to another one: of what others did, automerge is asked.
        self._touched, self._touched_since, self._touched_until = Touched(), self._taken, self._taken

    @classmethod
    def new(cls) -> Document:
        """An empty document; its first change makes the skeleton."""
        document = core.Document()
        with document.transaction() as change:
            change.put(_ROOT, "schema", _Int, document_versions.VERSION)
            change.put_object(_ROOT, "cells", core.ObjType.Map)
            change.put_object(_ROOT, "metadata", core.ObjType.Map)
        created = cls(document)
        created._taken = []
        return created

    @classmethod
    def load(cls, chunks: list[bytes]) -> Document:
        """A document from what `save` and `take_change` gave, in order. Raises DocumentDamaged, TooNew.

        One of an earlier schema is brought up to date; that is stored with its next change.
        """
        try:
            if not all(chunks):
                raise DocumentDamaged("a part of it is empty")
            document = core.Document.load(b"".join(chunks))
            if _misses_changes(document):
                raise DocumentDamaged("changes are missing that later ones build on")
            stored = document.get_heads()
            document_versions.migrate(document)
            loaded = cls(document)
        except (KeyboardInterrupt, SystemExit, TooNew):
            raise
        except BaseException as damaged:  # automerge panics with exceptions that are no Exception
            raise DocumentDamaged(f"the stored document cannot be read: {damaged}") from damaged
        loaded._taken = stored
        return loaded

    def save(self) -> bytes:
        """The whole document in one chunk."""
        return self._document.save()

    def take_change(self) -> bytes:
        """What was changed since the last call, for appending to the stored chunks; empty for nothing."""
        changes = self._document.get_changes(self._taken)
        self._taken = self._document.get_heads()
        self._touched, self._touched_since, self._touched_until = Touched(), self._taken, self._taken
        return b"".join(change.bytes for change in changes)

    def touched(self, since: list[bytes]) -> Touched:
        """What is another than in an earlier state, which is named by its heads. Ask before `take_change`."""
        now = self._document.get_heads()
        if self._touched_since == since and self._touched_until == now:
            return self._touched
        return document_touched.read(self._document.diff(since, now))

    def changes_since(self, heads: list[bytes]) -> list[bytes]:
        """The changes that a copy of this document in an earlier state lacks."""
        return [change.bytes for change in self._document.get_changes(heads)]

    def take_over(self, changes: Sequence[bytes], touched: Collection[CellId]) -> None:
        """Makes changes its own that were made in a replica, and found in order there.

        `touched`: the cells that they add, remove, move, or whose sources they write. Raises DocumentDamaged where the
        document does not take them.
        """
        before = self._text_lengths(touched)
        for start in range(0, len(changes), _TAKEN_AT_ONCE):
            sync.apply(self._document, changes[start : start + _TAKEN_AT_ONCE])
        if len(self._document.get_changes(self._taken)) < len(changes):
            raise DocumentDamaged("the document did not take a replica's changes")
        self._sources.note(self._text_lengths(touched) - before)
        here = [cell_id for cell_id in touched if self.has_cell(cell_id)]
        kept = [place for place in self._order if place[1] not in touched]
        self._order = sorted(kept + [(self._text(self._find(cell_id), "position"), cell_id) for cell_id in here])

    # Writing

    def insert_cell(self, cell: DocumentCell, index: int | None = None) -> None:
        """Adds a cell at `index`, or at the end. Raises InvalidRequest where the id is taken or the type unknown."""
        _check_type(cell.cell_type)
        if self.has_cell(cell.cell_id):
            raise InvalidRequest(f"a cell {cell.cell_id!r} exists already", cell_id=cell.cell_id)
        with self._change() as change:
            position = self._position(change, len(self._order) if index is None else min(index, len(self._order)))
            self._put_cell(change, cell, position)
        self._touched.cell(cell.cell_id, outputs=True)
        insort(self._order, (position, cell.cell_id))

    def fill(self, cells: Sequence[DocumentCell], metadata: str, nbformat_minor: int) -> None:
        """Makes an empty document a whole notebook. Raises InvalidRequest where there are cells already.

        The cells' ids are distinct. `metadata`: nbformat's, as JSON text.
        """
        if self._order:
            raise InvalidRequest(f"the notebook has {len(self._order)} cells already: import into an empty one")
        positions = generate_n_keys_between(None, None, len(cells))
        with self._change() as change:
            for cell, position in zip(cells, positions, strict=True):
                self._put_cell(change, cell, position)
                self._touched.cell(cell.cell_id, outputs=True)
            change.put(self._metadata, NOTEBOOK_METADATA, _Str, metadata)
            change.put(_ROOT, "nbformat_minor", _Int, nbformat_minor)
        self._touched.metadata.add(NOTEBOOK_METADATA)
        self._order = sorted((position, cell.cell_id) for cell, position in zip(cells, positions, strict=True))

    def move_cell(self, cell_id: CellId, after: CellId | None) -> None:
        """Puts a cell behind another one, or first. Raises CellNotFound."""
        old = self._place(cell_id)
        at = 0 if after is None else self._place(after) + 1
        if after == cell_id or at == old:
            return
        del self._order[old]
        with self._change() as change:
            position = self._position(change, at if at < old else at - 1)
            change.put(self._find(cell_id), "position", _Str, position)
        self._touched.cell(cell_id)
        insort(self._order, (position, cell_id))

    def set_source(self, cell_id: CellId, source: str, if_version: str = "") -> None:
        """Writes the whole source as the smallest change of one span. Raises CellNotFound, CellChanged."""
        current = self._check_version(cell_id, if_version)
        self._splice(cell_id, *span(current.source, source))

    def splice_source(self, cell_id: CellId, splice: Splice, if_version: str = "") -> None:
        """Edits a part of a source. Raises CellNotFound, CellChanged.

        Raises InvalidRequest where the source has no such place, or would become too large.
        """
        length = self.source_length(cell_id)
        if if_version:
            self._check_version(cell_id, if_version)
        start = length if splice.index is None else splice.index
        end = start + splice.delete_count
        if not 0 <= start <= end <= length:
            raise InvalidRequest(
                f"cannot replace {splice.delete_count} characters at {start}: "
                f"the source of cell {cell_id!r} has {length}",
                cell_id=cell_id,
            )
        if 4 * (length + len(splice.text)) > splice.max_bytes:  # else it is small enough in any case
            source = self.cell(cell_id).source
            size = len((source[:start] + splice.text + source[end:]).encode())
            if size > splice.max_bytes:
                raise InvalidRequest(f"the source would have {size} bytes; at most {splice.max_bytes} are allowed")
        self._splice(cell_id, start, end, splice.text)

    def set_cell_metadata(
        self, cell_id: CellId, values: Mapping[str, Any], remove: Collection[str] = (), *, max_bytes: int
    ) -> None:
        """Sets and removes keys of a cell's metadata. Raises CellNotFound, InvalidRequest for too much of it."""
        metadata = self._map(self._find(cell_id), "metadata")
        kept = {key: value for key, value in self.cell(cell_id).metadata.items() if key not in remove}
        size = len(json.dumps({**kept, **values}))
        if size > max_bytes:
            raise InvalidRequest(f"the cell's metadata would have {size} bytes; at most {max_bytes} are allowed")
        with self._change() as change:
            for key in {stored_key(name) for name in remove if name not in values}:
                if self._document.get(metadata, key) is not None:
                    change.delete(metadata, key)
            for name, value in values.items():
                self._put_text(change, metadata, stored_key(name), json.dumps(value))
        self._touched.cell(cell_id)

    def set_cell_type(self, cell_id: CellId, cell_type: str) -> None:
        """Makes it a cell of another type. Raises CellNotFound, InvalidRequest."""
        _check_type(cell_type)
        with self._change() as change:
            self._put_text(change, self._find(cell_id), "type", cell_type)
        self._touched.cell(cell_id, outputs=True)

    def clear_outputs(self, shown: Mapping[CellId, ExecutionId | None]) -> None:
        """Cells do not show these executions any more; those with None show nothing. Raises CellNotFound."""
        with self._change() as change:
            for cell_id, execution_id in shown.items():
                cell = self._find(cell_id)
                if execution_id is not None:
                    self._put_text(change, cell, "cleared", execution_id)
                    self._touched.cell(cell_id, outputs=True)

    def delete_cell(self, cell_id: CellId) -> None:
        """Removes a cell. Raises CellNotFound."""
        place = self._place(cell_id)
        self._sources.remove(self._find(cell_id))
        with self._change() as change:
            change.delete(self._cells, cell_id)
        del self._order[place]
        self._touched.cell(cell_id, outputs=True)

    def set_metadata(self, key: str, value: str) -> None:
        """Sets one value of the notebook's metadata."""
        with self._change() as change:
            self._put_text(change, self._metadata, key, value)
        self._touched.metadata.add(key)

    # Inside

    @contextmanager
    def _change(self) -> Iterator[core.Transaction]:
        told = self._document.get_heads() == self._touched_until
        with self._document.transaction() as change:
            yield change
        if told:
            self._touched_until = self._document.get_heads()

    def _put_text(self, change: core.Transaction, parent: bytes, key: str, value: str) -> None:
        if self._maybe(parent, key) != value:
            change.put(parent, key, _Str, value)

    def _put_cell(self, change: core.Transaction, new: DocumentCell, position: str) -> None:
        cell = change.put_object(self._cells, new.cell_id, core.ObjType.Map)
        change.put(cell, "type", _Str, new.cell_type)
        change.put(cell, "position", _Str, position)
        self._sources.put(change, cell, new.source)
        values = change.put_object(cell, "metadata", core.ObjType.Map)
        for name, value in new.metadata.items():
            change.put(values, stored_key(name), _Str, json.dumps(value))
        if new.attachments is not None:
            change.put(cell, "attachments", _Str, json.dumps(new.attachments))
        if new.cleared is not None:
            change.put(cell, "cleared", _Str, new.cleared)

    def _check_version(self, cell_id: CellId, if_version: str) -> DocumentCell:
        current = self.cell(cell_id)
        if if_version and current.version != if_version:
            raise CellChanged(f"cell {cell_id!r} was changed by somebody else", cell_id=cell_id)
        return current

    def _splice(self, cell_id: CellId, start: int, end: int, new: str) -> None:
        if start < end or new:
            with self._change() as change:
                self._sources.splice(change, self._find(cell_id), start, end, new)
            self._touched.cell(cell_id)

    def _position(self, change: core.Transaction, at: int) -> str:
        """A position for what comes to stand at `at` in the order."""
        before = self._order[at - 1][0] if at > 0 else None
        # After a merge cells may share a position; there is no room between those, so the ones behind are moved on.
        end = at
        while before is not None and end < len(self._order) and self._order[end][0] == before:
            end += 1
        after = self._order[end][0] if end < len(self._order) else None
        position, *others = generate_n_keys_between(before, after, 1 + end - at)
        for place, other in zip(range(at, end), others, strict=True):
            cell_id = self._order[place][1]
            change.put(self._find(CellId(cell_id)), "position", _Str, other)
            self._order[place] = (other, cell_id)
            self._touched.cell(CellId(cell_id))
        return str(position)


def _misses_changes(document: core.Document) -> bool:
    """Whether automerge has left changes out, without a word, because others that they build on are not there.

    A message of its sync protocol asks for those: type, heads (their count, then 32 bytes each), needs alike.
    """
    message = document.generate_sync_message(core.SyncState())
    if message is None:
        return False
    encoded = message.encode()
    heads, at = _leb128(encoded, 1)
    needs, _ = _leb128(encoded, at + 32 * heads)
    return needs > 0


def _leb128(encoded: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next thing begins."""
    number, shift = 0, 0
    while encoded[at] & 0x80:
        number |= (encoded[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | encoded[at] << shift, at + 1


def _check_type(cell_type: str) -> None:
    if cell_type not in CELL_TYPES:
        raise InvalidRequest(f"unsupported cell type {cell_type[:40]!r}: one of {', '.join(CELL_TYPES)}")
