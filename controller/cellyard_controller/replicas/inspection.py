"""Whether a document that a replica has changed is still one of ours. Runs in the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from automerge import core
from fractional_indexing import BASE_62_DIGITS, FIError, get_integer_length, validate_order_key

from cellyard_controller import json_text
from cellyard_proto.document import schema
from cellyard_proto.document.text import ALL_TEXT, LARGEST_TEXT

_MERGED = 2
"""Replicas that could not see each other may each have added what the limits allow."""
_MAX_POSITION = 500
_MAX_INTEGER = 12
"""Characters of a position's first part: room for 62**11 cells, and far from where the library's positions end."""
_ROOT_KEYS = {"schema", "nbformat_minor", "cells", "metadata"}
_CELL_KEYS = {"type", "position", "source", "metadata", "attachments", "cleared"}
_Str, _Int = core.ScalarType.Str, core.ScalarType.Int

_Value: TypeAlias = Any
"""An ObjType, or a ScalarType with a value."""
_Entries: TypeAlias = dict[str, tuple[_Value, bytes]]
"""Of a map, by key: the value, and its automerge id."""


class NotOurs(Exception):
    """The document is none of ours; the message says why."""


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """What the parts of a document may be: those of ordinary calls."""

    source: int
    """Bytes of a cell's source."""
    metadata: int
    """Bytes of a cell's metadata, of its attachments, and of one value of the notebook's."""
    identifier: int
    """Characters of a cell's id and of a key of the notebook's metadata."""


@dataclass(frozen=True, slots=True)
class FoundCell:
    """A cell as it stands, whatever that is. Equal where nothing of it has changed."""

    entries: _Entries
    metadata: _Entries
    text: str | None
    """The source where it is Text."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a document."""

    root: _Entries
    metadata: _Entries
    strays: _Entries
    """What stands between the cells and is none."""
    cells: dict[str, FoundCell] = field(default_factory=dict)

    def touched(self, before: Survey) -> list[str]:
        """Cells that were added or changed since, then those that were removed."""
        changed = [cell for cell, found in self.cells.items() if before.cells.get(cell) != found]
        return changed + self.removed(before)

    def removed(self, before: Survey) -> list[str]:
        """Cells that were removed since."""
        return [cell for cell in before.cells if cell not in self.cells]


def survey(document: core.Document) -> Survey:
    """Reads the whole document: some microseconds a cell."""
    root = _entries(document, core.ROOT)
    inside = _entries(document, _id(root, "cells"))
    cells = {}
    for name, (value, cell) in inside.items():
        if value == core.ObjType.Map:
            entries = _entries(document, cell)
            source, text = entries.get("source", (None, b""))
            cells[name] = FoundCell(
                entries,
                _entries(document, _id(entries, "metadata")),
                document.text(text) if source == core.ObjType.Text else None,
            )
    strays = {name: value for name, value in inside.items() if name not in cells}
    return Survey(root, _entries(document, _id(root, "metadata")), strays, cells)


def inspect(document: core.Document, before: Survey, limits: SchemaLimits) -> Survey:
    """What is in the document now. Raises NotOurs where something was written since `before` that is none of ours."""
    found = survey(document)
    _check_root(found, before)
    for key, value in found.metadata.items():
        if before.metadata.get(key) != value:
            _name(key, "a key of the notebook's metadata", limits)
            text = _text(value[0], f"the notebook's metadata {key[:40]!r}", limits.metadata)
            if key == schema.NOTEBOOK_METADATA:
                _json(text, dict, "the notebook's metadata")
    for name, cell in found.cells.items():
        if before.cells.get(name) != cell:
            _name(name, "a cell's id", limits)
            _check_cell(document, cell, f"cell {name!r}", limits)
    length = sum(len(cell.text) for cell in found.cells.values() if cell.text is not None)
    if length > _MERGED * ALL_TEXT:
        raise NotOurs(f"all sources together have {length} characters of Text; at most {ALL_TEXT} are meant to be")
    return found


def _check_root(found: Survey, before: Survey) -> None:
    _known(found.root, _ROOT_KEYS, "the document")
    for key in ("schema", "cells", "metadata"):
        if found.root.get(key) != before.root.get(key):
            raise NotOurs(f"its {key!r} was replaced")
    if found.strays != before.strays:
        raise NotOurs(f"cell {min(found.strays, default='')[:40]!r} is no map")
    minor = found.root.get("nbformat_minor", ((_Int, 5), b""))[0]
    if minor not in [(_Int, known) for known in range(6)]:
        raise NotOurs("its nbformat_minor is not 0 to 5")


def _check_cell(document: core.Document, cell: FoundCell, what: str, limits: SchemaLimits) -> None:
    entries = cell.entries
    _known(entries, _CELL_KEYS, what)
    cell_type = _text(_value(entries, "type"), f"the type of {what}", limits.identifier)
    if cell_type not in schema.CELL_TYPES:
        raise NotOurs(f"the type of {what} is {cell_type[:40]!r}: one of {', '.join(schema.CELL_TYPES)}")
    _check_position(_text(_value(entries, "position"), f"the position of {what}", _MAX_POSITION), what)
    if _value(entries, "metadata") != core.ObjType.Map:
        raise NotOurs(f"{what} has no map of metadata")
    size = 0
    for key, (value, _) in cell.metadata.items():
        text = _text(value, f"the metadata {key[:40]!r} of {what}", limits.metadata)
        _json(text, object, f"the metadata {key[:40]!r} of {what}")
        size += len(key) + len(text)
    if size > _MERGED * limits.metadata:
        raise NotOurs(f"the metadata of {what} has {size} characters; at most {limits.metadata} are meant to be")
    if "attachments" in entries:
        attachments = _text(_value(entries, "attachments"), f"the attachments of {what}", limits.source)
        _json(attachments, dict, f"the attachments of {what}")
    if "cleared" in entries:
        _text(_value(entries, "cleared"), f"`cleared` of {what}", 4 * limits.identifier)
    if cell.text is None:
        _text(_value(entries, "source"), f"the source of {what}", limits.source)
        return
    if len(cell.text) > _MERGED * LARGEST_TEXT:
        raise NotOurs(f"the source of {what} is Text of {len(cell.text)} characters: at most {LARGEST_TEXT} are")
    for element, _ in document.values(entries["source"][1]):
        if not isinstance(element, tuple) or element[0] != _Str or len(str(element[1])) != 1:
            raise NotOurs(f"the source of {what} has an element that is not one character")


def _check_position(position: str, what: str) -> None:
    try:
        if not set(position) <= set(BASE_62_DIGITS) or get_integer_length(position[0]) > _MAX_INTEGER:
            raise NotOurs(f"the position of {what} is no fractional index")
        validate_order_key(position)
    except (FIError, IndexError):
        raise NotOurs(f"the position of {what} is no fractional index") from None


def _entries(document: core.Document, parent: bytes | None) -> _Entries:
    return {} if parent is None else dict(zip(document.keys(parent), document.values(parent), strict=True))


def _id(entries: _Entries, key: str) -> bytes | None:
    value, found = entries.get(key, (None, b""))
    return found if value == core.ObjType.Map else None


def _value(entries: _Entries, key: str) -> _Value:
    return entries.get(key, (None, b""))[0]


def _known(entries: _Entries, keys: set[str], what: str) -> None:
    unknown = entries.keys() - keys
    if unknown:
        raise NotOurs(f"{what} has the unknown key {min(unknown)[:40]!r}")


def _name(name: str, what: str, limits: SchemaLimits) -> None:
    if not name or len(name) > limits.identifier or not name.isprintable():
        raise NotOurs(f"{what} is empty, too long or not printable: {name[:40]!r}")


def _text(value: _Value, what: str, most: int) -> str:
    if not isinstance(value, tuple) or value[0] != _Str:
        raise NotOurs(f"{what} is no text")
    text = str(value[1])
    if len(text) > most // 4 and len(text.encode()) > most:
        raise NotOurs(f"{what} has more than {most} bytes")
    return text


def _json(text: str, kind: type, what: str) -> None:
    try:
        value = json_text.parse(text)
    except ValueError as bad:
        raise NotOurs(f"{what} is no JSON: {bad}") from None
    if not isinstance(value, kind):
        raise NotOurs(f"{what} is no JSON object")
