"""A live replica without its connection: the document on automerge, edits of it, and what the sync protocol says.

Shared by both flavours. Its methods may be called from any thread; each takes some microseconds a character. Who needs
it has the extra `cellyard[document]`, so this module is imported when a replica is opened, never before.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from automerge import core
from fractional_indexing import FIError, generate_key_between

from cellyard.document import DocumentCell, DocumentChange
from cellyard.errors import CellNotFound, InvalidRequest
from cellyard_proto.document import sync
from cellyard_proto.document.schema import NOTEBOOK_METADATA, key_name, stored_key
from cellyard_proto.document.text import Sources, span

_ROOT, _Str = core.ROOT, core.ScalarType.Str


class Replica:
    """The document as it is here: what was edited here, and what has come from the controller."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._document = core.Document()
        self._state = core.SyncState()
        self._known: set[bytes] = set()
        self._their_heads: list[bytes] = []
        self._waiting = True
        self.actor_id = b""
        """Empty until the controller has given one."""
        self._places: dict[str, tuple[str, str]] = {}
        self._cells: dict[str, DocumentCell] = {}
        self._metadata: dict[str, str] = {}

    # The protocol

    def begin(self, actor_id: bytes) -> None:
        """The controller is ready for a replica of that name, with a fresh state of the protocol."""
        with self._lock:
            if not self.actor_id:
                self._document.set_actor(actor_id)
                self.actor_id = actor_id
            self._state, self._their_heads, self._waiting = core.SyncState(), [], False

    def lost(self) -> None:
        """The connection is gone: there is nothing to say until the controller is ready again."""
        with self._lock:
            self._waiting = True

    def next_message(self) -> bytes | None:
        """What the controller has to be told now; None while it has everything, or has not answered."""
        with self._lock:
            if self._waiting:
                return None  # one message under way: what is edited meanwhile goes with the next one
            message = sync.next_message(self._document, self._state)
            # It answers whatever announces a state that it does not have.
            self._waiting = message is not None and sorted(self._document.get_heads()) != sorted(self._their_heads)
            return message

    def receive(self, message: bytes) -> DocumentChange | None:
        """Takes what the controller says; tells what it has changed here, if anything."""
        with self._lock:
            before = self._document.get_heads()
            self._document.receive_sync_message(self._state, core.Message.decode(message))
            self._their_heads, self._waiting = sync.envelope(message).heads, False
            new = [change.hash for change in self._document.get_changes(before)]
            self._known.update(new)
            return self._read_all() if new else None

    @property
    def ready(self) -> bool:
        """Whether the document has come."""
        with self._lock:
            return self._document.get(_ROOT, "metadata") is not None and not self._lacks()

    @property
    def synced(self) -> bool:
        """Whether the controller has everything that was edited here, on disk."""
        with self._lock:
            if self._lacks():
                return False
            ours = (change.actor_id == self.actor_id for change in self._document.get_changes(self._their_heads))
            return bool(self._their_heads) and not any(ours)

    def _lacks(self) -> bool:
        """Whether the controller has named a state that has not come yet."""
        return not self._known.issuperset(self._their_heads)

    # Reading

    def cells(self) -> list[DocumentCell]:
        """All cells in document order."""
        with self._lock:
            return [self._cells[cell_id] for _, cell_id in sorted(self._places.values())]

    def cell(self, cell_id: str) -> DocumentCell:
        """One cell. Raises CellNotFound."""
        found = self._cells.get(cell_id)
        if found is None:
            raise CellNotFound(f"cell {cell_id!r} not found", details={"cell_id": cell_id})
        return found

    def metadata(self, key: str) -> str | None:
        """A value of the notebook's metadata."""
        return self._metadata.get(key)

    # Editing: each is one change, and returns what it changed

    def create_cell(self, cell_id: str, source: str, cell_type: str, index: int | None) -> DocumentChange:
        """Adds a cell."""
        with self._editing() as (change, sources):
            places = sorted(self._places.values())
            at = len(places) if index is None else min(index, len(places))
            position = self._between(change, at)
            cell = change.put_object(self._id(_ROOT, "cells"), cell_id, core.ObjType.Map)
            change.put(cell, "type", _Str, cell_type)
            change.put(cell, "position", _Str, position)
            sources.put(change, cell, source)
            change.put_object(cell, "metadata", core.ObjType.Map)
        return self._edited(cell_id)

    def splice_source(self, cell_id: str, index: int, delete_count: int, text: str) -> DocumentChange:
        """Edits a part of a source. Raises CellNotFound, and InvalidRequest for a place that it does not have."""
        with self._lock:
            length = len(self.cell(cell_id).source)
            if index + delete_count > length:
                raise InvalidRequest(
                    f"cannot replace {delete_count} characters at {index}: cell {cell_id!r} has {length}"
                )
            with self._editing() as (change, sources):
                sources.splice(change, self._cell_id(cell_id), index, index + delete_count, text)
        return self._edited(cell_id)

    def set_source(self, cell_id: str, source: str) -> DocumentChange:
        """Writes a whole source as the smallest change of one span. Raises CellNotFound."""
        with self._lock:
            start, end, new = span(self.cell(cell_id).source, source)
            return self.splice_source(cell_id, start, end - start, new)

    def set_cell_type(self, cell_id: str, cell_type: str) -> DocumentChange:
        """Makes it a cell of another type. Raises CellNotFound."""
        with self._editing() as (change, _):
            change.put(self._cell_id(cell_id), "type", _Str, cell_type)
        return self._edited(cell_id)

    def set_cell_metadata(self, cell_id: str, values: Mapping[str, Any], remove: Collection[str]) -> DocumentChange:
        """Sets and removes keys of a cell's metadata. Raises CellNotFound, InvalidRequest for what is no JSON."""
        try:
            texts = {stored_key(name): json.dumps(value, allow_nan=False) for name, value in values.items()}
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"a cell's metadata is JSON data: {error}") from None
        with self._editing() as (change, _):
            metadata = self._id(self._cell_id(cell_id), "metadata")
            for name in remove:
                if name not in values and self._document.get(metadata, stored_key(name)) is not None:
                    change.delete(metadata, stored_key(name))
            for key, text in texts.items():
                change.put(metadata, key, _Str, text)
        return self._edited(cell_id)

    def move_cell(self, cell_id: str, after: str | None) -> DocumentChange:
        """Puts a cell behind another one, or first. Raises CellNotFound."""
        with self._lock:
            self.cell(cell_id)
            if after == cell_id:
                return DocumentChange(local=True)
            others = sorted(place for name, place in self._places.items() if name != cell_id)
            at = 0 if after is None else others.index(self._places[self.cell(after).id]) + 1
            old = self._places.pop(cell_id)
            try:
                with self._editing() as (change, _):
                    change.put(self._cell_id(cell_id), "position", _Str, self._between(change, at))
            finally:
                self._places[cell_id] = old
        return self._edited(cell_id)

    def delete_cell(self, cell_id: str) -> DocumentChange:
        """Removes a cell. Raises CellNotFound."""
        with self._editing() as (change, _):
            self.cell(cell_id)
            change.delete(self._id(_ROOT, "cells"), cell_id)
        with self._lock:
            del self._cells[cell_id], self._places[cell_id]
        return DocumentChange(removed=frozenset({cell_id}), local=True)

    def set_metadata(self, key: str, value: str) -> DocumentChange:
        """Sets a value of the notebook's metadata. Raises InvalidRequest for `notebook_metadata` that is no object."""
        if key == NOTEBOOK_METADATA and not _is_object(value):
            raise InvalidRequest(f"{key} is nbformat's metadata: a JSON object")
        with self._editing() as (change, _):
            change.put(self._id(_ROOT, "metadata"), key, _Str, value)
            self._metadata[key] = value
        return DocumentChange(metadata=frozenset({key}), local=True)

    # Inside

    @contextmanager
    def _editing(self) -> Iterator[tuple[core.Transaction, Sources]]:
        with self._lock:
            sources = Sources(self._document, [self._cell_id(cell) for cell in self._cells])
            with self._document.transaction() as change:
                yield change, sources
            self._known.update(self._document.get_heads())

    def _between(self, change: core.Transaction, at: int) -> str:
        """A position for what comes to stand at `at`; cells that share one with its neighbour are moved on."""
        places = sorted(self._places.values())
        before = places[at - 1][0] if at > 0 else None
        end = at
        while before is not None and end < len(places) and places[end][0] == before:
            end += 1
        after = places[end][0] if end < len(places) else None
        try:
            position = last = generate_key_between(before, after)
            for _, cell_id in places[at:end]:
                last = generate_key_between(last, after)
                change.put(self._cell_id(cell_id), "position", _Str, last)
                self._places[cell_id] = (last, cell_id)
        except FIError as full:
            raise InvalidRequest(f"there is no room for a cell there: {full}") from None
        return str(position)

    def _edited(self, cell_id: str) -> DocumentChange:
        with self._lock:
            self._read(cell_id)
        return DocumentChange(cells=frozenset({cell_id}), local=True)

    def _read_all(self) -> DocumentChange:
        before, metadata, places = dict(self._cells), self._metadata, dict(self._places)
        if self._document.get(_ROOT, "cells") is None:
            return DocumentChange()
        names = self._document.keys(self._id(_ROOT, "cells"))
        for cell_id in before.keys() - set(names):
            del self._cells[cell_id], self._places[cell_id]
        for cell_id in names:
            self._read(cell_id)
        found = self._id(_ROOT, "metadata")
        self._metadata = {key: self._value(found, key) for key in self._document.keys(found)}
        changed = (name for name in names if (before.get(name), places.get(name)) != self._state_of(name))
        keys = (key for key in {*metadata, *self._metadata} if metadata.get(key) != self._metadata.get(key))
        return DocumentChange(frozenset(changed), frozenset(before.keys() - set(names)), frozenset(keys))

    def _state_of(self, cell_id: str) -> tuple[DocumentCell, tuple[str, str]]:
        return self._cells[cell_id], self._places[cell_id]

    def _read(self, cell_id: str) -> None:
        cell = self._cell_id(cell_id)
        metadata = self._id(cell, "metadata")
        self._places[cell_id] = (self._value(cell, "position"), cell_id)
        self._cells[cell_id] = DocumentCell(
            id=cell_id,
            cell_type=self._value(cell, "type"),
            source=Sources(self._document, ()).read(cell),
            metadata={key_name(key): json.loads(self._value(metadata, key)) for key in self._document.keys(metadata)},
        )

    def _cell_id(self, cell_id: str) -> bytes:
        found = self._document.get(self._id(_ROOT, "cells"), cell_id)
        if found is None:
            raise CellNotFound(f"cell {cell_id!r} not found", details={"cell_id": cell_id})
        return found[1]

    def _id(self, parent: bytes, key: str) -> bytes:
        found = self._document.get(parent, key)
        assert found is not None
        return found[1]

    def _value(self, parent: bytes, key: str) -> str:
        found = self._document.get(parent, key)
        assert found is not None
        return str(cast("tuple[Any, str]", found[0])[1])


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
