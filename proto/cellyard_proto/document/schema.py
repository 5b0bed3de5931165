"""Names and values of the document's schema; the controller's `Document` says how they hang together."""

from __future__ import annotations

CELL_TYPES = ("code", "markdown", "raw")
NOTEBOOK_METADATA = "notebook_metadata"
"""The key of the notebook's metadata that is nbformat's, a JSON object."""
VERSION = 1
"""Counts up when a reader of the old schema would misread the new one. New optional keys need no new version."""


def stored_key(name: str) -> str:
    """How a key of metadata is stored: automerge has no empty keys, JSON has."""
    return name if name and name[0] != "\0" else f"\0{name}"


def key_name(stored: str) -> str:
    """The key that is stored so."""
    return stored[1:] if stored[:1] == "\0" else stored
