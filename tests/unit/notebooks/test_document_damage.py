"""Stored bytes that are not what was stored: seen, whatever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellyard_controller.ids import CellId, NotebookId, NotebookKey
from cellyard_controller.notebooks import set_aside
from cellyard_controller.notebooks.document import Document, DocumentCell, DocumentDamaged


def cell(number: int) -> DocumentCell:
    return DocumentCell(CellId(f"c{number}"), "code", f"print({number})\n" * (number % 5 + 1), {"n": number})


def appended(document: Document, numbers: range) -> list[bytes]:
    """A change for each cell."""
    chunks = []
    for number in numbers:
        document.insert_cell(cell(number))
        chunks.append(document.take_change())
    return chunks


def stored() -> list[bytes]:
    """As the store has a document: the saved skeleton, then changes."""
    skeleton = Document.new().save()
    return [skeleton, *appended(Document.load([skeleton]), range(12))]


def folded() -> list[bytes]:
    """As the store has one that was folded."""
    saved = Document.load(stored()).save()
    return [saved, *appended(Document.load([saved]), range(100, 106))]


CHUNKS = {"stored": stored(), "folded": folded()}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """Chunks of which one has other bytes, fewer bytes or none."""
    name = draw(st.sampled_from(sorted(CHUNKS)))
    chunks = list(CHUNKS[name])
    which = draw(st.integers(0, len(chunks) - 1))
    chunk = bytearray(chunks[which])
    at = draw(st.integers(0, len(chunk) - 1))
    match draw(st.sampled_from(["flip", "garbage", "truncate", "zeros"])):
        case "flip":
            chunk[at] ^= 1 << draw(st.integers(0, 7))
        case "garbage":
            garbage = draw(st.binary(min_size=1, max_size=64))
            chunk[at : at + len(garbage)] = garbage
        case "truncate":
            del chunk[at:]
        case "zeros":
            chunk[at:] = bytes(len(chunk) - at)
    chunks[which] = bytes(chunk)
    return name, chunks


@settings(max_examples=500, deadline=None)
@given(damaged())
def test_damaged_bytes_are_refused_or_cost_nothing(case: tuple[str, list[bytes]]) -> None:
    name, chunks = case
    try:
        document = Document.load(chunks)
    except DocumentDamaged:
        return
    assert document.cells() == Document.load(CHUNKS[name]).cells()


@pytest.mark.parametrize("name", sorted(CHUNKS))
def test_a_chunk_that_is_missing_or_empty_is_damage(name: str) -> None:
    """automerge alone would leave out, without a word, whatever builds on it."""
    chunks = CHUNKS[name]
    for which in range(len(chunks)):
        with pytest.raises(DocumentDamaged):
            Document.load([*chunks[:which], b"", *chunks[which + 1 :]])
    for which in range(len(chunks) - 1):  # that the last one is missing cannot be seen
        with pytest.raises(DocumentDamaged):
            Document.load([*chunks[:which], *chunks[which + 1 :]])


def test_a_document_is_set_aside_once_and_under_a_plain_name(tmp_path: Path) -> None:
    name = NotebookId("../a b/ü" + "x" * 200)
    path = set_aside.keep(tmp_path, NotebookKey(7), name, [b"one", b"two"])
    assert path.read_bytes() == b"onetwo"
    assert path.parent == tmp_path / "damaged"
    assert path.stat().st_mode & 0o777 == 0o600
    assert set_aside.keep(tmp_path, NotebookKey(7), name, [b"one", b"two"]) == path
    other = set_aside.keep(tmp_path, NotebookKey(71), name, [b"one", b"two"])
    assert set_aside.kept(tmp_path) == [path, other]
    set_aside.forget(tmp_path, NotebookKey(7))
    assert set_aside.kept(tmp_path) == [other]
