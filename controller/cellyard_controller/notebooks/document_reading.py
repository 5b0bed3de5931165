"""Reading a notebook's document: its cells, as they are or as they were, their order, and its metadata."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

from automerge import core

from cellyard_controller.errors import CellNotFound
from cellyard_controller.ids import CellId, ExecutionId
from cellyard_proto.document import schema
from cellyard_proto.document.schema import key_name
from cellyard_proto.document.text import Sources

CELL_TYPES = schema.CELL_TYPES
NOTEBOOK_METADATA = schema.NOTEBOOK_METADATA
"""The key of the notebook's metadata that is nbformat's, a JSON object."""
NBFORMAT_MINOR = 5
"""What a notebook is exported as where it was not imported as something else."""
_ROOT = core.ROOT


class DocumentDamaged(Exception):
    """The stored bytes are no document of this kind."""


@dataclass(frozen=True, slots=True)
class DocumentCell:
    """A cell as the document has it."""

    cell_id: CellId
    cell_type: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, Any] | None = None
    """As nbformat has them; None where there are none."""
    cleared: ExecutionId | None = None
    """The execution whose outputs the cell does not show."""

    @property
    def version(self) -> str:
        """Changes with the source; for compare-and-set."""
        return hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Reading:
    """One notebook's document, as far as it is read."""

    def __init__(self, document: core.Document) -> None:
        self._document = document
        self._cells = self._map(_ROOT, "cells")
        self._metadata = self._map(_ROOT, "metadata")
        # Sorted (position, cell id): reading every position for every new cell would slow long notebooks down.
        self._order = sorted(
            (self._text(self._find(CellId(cell)), "position"), cell) for cell in document.keys(self._cells)
        )
        self._sources = Sources(document, (self._find(cell_id) for cell_id in self.cell_ids()))

    @property
    def heads(self) -> list[bytes]:
        """Names the state that the document is in."""
        return self._document.get_heads()

    def cell_ids(self) -> list[CellId]:
        """Ids in document order."""
        return [CellId(cell_id) for _, cell_id in self._order]

    def cells(self) -> list[DocumentCell]:
        """All cells in document order."""
        return [self.cell(cell_id) for cell_id in self.cell_ids()]

    def has_cell(self, cell_id: CellId) -> bool:
        """Whether the cell is there."""
        return self._document.get(self._cells, cell_id) is not None

    def cell(self, cell_id: CellId, at: list[bytes] | None = None) -> DocumentCell:
        """One cell, as it is or as it was in the state that these heads name. Raises CellNotFound."""
        found = self._find(cell_id, at)
        metadata = self._map(found, "metadata", at)
        attachments = self._maybe(found, "attachments", at)
        cleared = self._maybe(found, "cleared", at)
        keys = self._document.keys(metadata, at)
        return DocumentCell(
            cell_id=cell_id,
            cell_type=self._text(found, "type", at),
            source=self._sources.read(found, at),
            metadata={key_name(key): json.loads(self._text(metadata, key, at)) for key in keys},
            attachments=None if attachments is None else json.loads(attachments),
            cleared=None if cleared is None else ExecutionId(cleared),
        )

    def place(self, cell_id: CellId) -> tuple[int, CellId | None]:
        """Where a cell stands, from 0, and the cell before it. Raises CellNotFound."""
        at = self._place(cell_id)
        return at, CellId(self._order[at - 1][1]) if at else None

    def source_length(self, cell_id: CellId) -> int:
        """Characters of a cell's source. Raises CellNotFound."""
        return self._sources.length(self._find(cell_id))

    def metadata(self, key: str, at: list[bytes] | None = None) -> str | None:
        """One value of the notebook's metadata, None where it is not set; `at` as for `cell`."""
        return self._maybe(self._metadata, key, at)

    def metadata_keys(self) -> list[str]:
        """The keys of the notebook's metadata."""
        return self._document.keys(self._metadata)

    @property
    def nbformat_minor(self) -> int:
        """The minor version of nbformat that the notebook is exported as."""
        found = self._document.get(_ROOT, "nbformat_minor")
        return NBFORMAT_MINOR if found is None else int(cast("tuple[Any, int]", found[0])[1])

    # Inside

    def _place(self, cell_id: CellId) -> int:
        """Where a cell stands in the order. Raises CellNotFound."""
        return bisect_left(self._order, (self._text(self._find(cell_id), "position"), cell_id))

    def _map(self, parent: bytes, key: str, at: list[bytes] | None = None) -> bytes:
        found = self._document.get(parent, key, at)
        if found is None or found[0] != core.ObjType.Map:
            raise DocumentDamaged(f"the document has no map {key!r}")
        return found[1]

    def _find(self, cell_id: CellId, at: list[bytes] | None = None) -> bytes:
        found = self._document.get(self._cells, cell_id, at)
        if found is None:
            raise CellNotFound(f"cell {cell_id!r} not found", cell_id=cell_id)
        return found[1]

    def _text_lengths(self, cell_ids: Collection[CellId]) -> int:
        return sum(self._sources.text_length(self._find(cell_id)) for cell_id in cell_ids if self.has_cell(cell_id))

    def _maybe(self, parent: bytes, key: str, at: list[bytes] | None = None) -> str | None:
        found = self._document.get(parent, key, at)
        return None if found is None else str(cast("tuple[core.ScalarType, core.ScalarValue]", found[0])[1])

    def _text(self, parent: bytes, key: str, at: list[bytes] | None = None) -> str:
        found = self._maybe(parent, key, at)
        assert found is not None
        return found
