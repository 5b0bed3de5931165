"""What changes of a document touched: which cells, which values of the notebook's metadata.

The document keeps this while it edits. Where it was changed by others (a replica's edits are merged, not made here) it
is read from automerge's diff, which walks the whole document: 20 ms where it has 1,000 cells and 100,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cellyard_controller.ids import CellId

# automerge's patches have no attributes in Python, only a text. It begins with where the change is and what was done.
_STRING = r'"((?:[^"\\]|\\.)*)"'
_PATH = re.compile(
    rf'\[(?:\(Root, Map\({_STRING}\)\)((?:, \(Id\(\d+, ActorID\("[0-9a-f]*"\), \d+\), [^"]*{_STRING}\))?))?'
)
_ACTION = re.compile(rf"\], action: (\w+) \{{ (?:key|prop): (?:Map\()?{_STRING}")
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]+)\}|(.))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}


@dataclass(slots=True)
class Touched:
    """What may be another than before."""

    cells: dict[CellId, bool] = field(default_factory=dict)
    """Cells that are new, changed, moved or gone. True: they may show other outputs, too."""
    metadata: set[str] = field(default_factory=set)
    """Keys of the notebook's metadata."""
    everything: bool = False
    """It could not be told: all of it."""

    def cell(self, cell_id: CellId, *, outputs: bool = False) -> None:
        """A cell was touched."""
        self.cells[cell_id] = outputs or self.cells.get(cell_id, False)


def read(patches: Iterable[object]) -> Touched:
    """What automerge's patches touch."""
    touched = Touched()
    for patch in patches:
        _read(repr(patch), touched)
    return touched


def _read(patch: str, touched: Touched) -> None:
    path = _PATH.search(patch)
    action = _ACTION.search(patch)
    root, cell = (path[1], path[3]) if path else (None, None)
    key = None if action is None else _unescaped(action[2])
    if root == "metadata" and key is not None:
        touched.metadata.add(key)
    elif root == "cells" and cell is not None:
        touched.cell(CellId(_unescaped(cell)), outputs=key in ("type", "cleared"))
    elif root == "cells" and key is not None:
        touched.cell(CellId(key), outputs=True)
    elif root is not None or key not in ("schema", "nbformat_minor"):
        touched.everything = True


def _unescaped(text: str) -> str:
    """A string that Rust wrote for people who debug."""

    def character(escape: re.Match[str]) -> str:
        return chr(int(escape[1], 16)) if escape[1] else _ESCAPED.get(escape[2], escape[2])

    return _ESCAPE.sub(character, text)
