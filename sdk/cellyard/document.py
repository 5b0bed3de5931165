"""What a live replica of a document tells: its cells, and what has become of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DocumentCell:
    """A cell as it stands in the document; outputs are not in it."""

    id: str
    cell_type: str
    """"code", "markdown" or "raw"."""
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON data; changing this object changes nothing in the document."""


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """What a change of the document was about."""

    cells: frozenset[str] = frozenset()
    """Ids of cells that are new, moved, or written."""
    removed: frozenset[str] = frozenset()
    """Ids of cells that are gone."""
    metadata: frozenset[str] = frozenset()
    """Keys of the notebook's metadata that were set or are gone."""
    local: bool = False
    """Whether it was made on this replica."""
