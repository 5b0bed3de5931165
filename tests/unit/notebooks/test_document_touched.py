"""What a change touched is told the same by the document that made it and by one that it was merged into."""

from __future__ import annotations

from typing import Any

import pytest
from automerge import core
from hypothesis import given, settings
from hypothesis import strategies as st

from cellyard_controller.errors import Refused
from cellyard_controller.ids import CellId, ExecutionId
from cellyard_controller.notebooks import document_touched
from cellyard_controller.notebooks.document import CELL_TYPES, Document, DocumentCell, Splice
from cellyard_controller.notebooks.document_touched import Touched

# Names that are hard to read in a patch's text.
NAMES = ["a", "b", 'q"uote', "back\\slash", "line\nend", "e\u0301", "\u200b", "\0", "\U0001d4b3"]
NAME = st.sampled_from([*NAMES, ']}, action: PutMap { key: "type"'])
EDIT = st.one_of(
    st.tuples(st.just("insert"), NAME, st.integers(0, 3)),
    st.tuples(st.just("delete"), NAME),
    st.tuples(st.just("move"), NAME, st.none() | NAME),
    st.tuples(st.just("source"), NAME, st.text(max_size=8)),
    st.tuples(st.just("splice"), NAME, NAME),
    st.tuples(st.just("cell_metadata"), NAME, NAME),
    st.tuples(st.just("type"), NAME, st.sampled_from(CELL_TYPES)),
    st.tuples(st.just("clear"), NAME),
    st.tuples(st.just("metadata"), NAME, st.text(max_size=3)),
)


def edit(document: Document, what: str, *given: Any) -> None:
    match what, *given:
        case "insert", name, index:
            document.insert_cell(DocumentCell(CellId(name), "code", "x", {name: 1}), index)
        case "delete", name:
            document.delete_cell(CellId(name))
        case "move", name, after:
            document.move_cell(CellId(name), after)
        case "source", name, source:
            document.set_source(CellId(name), source)
        case "splice", name, text:
            document.splice_source(CellId(name), Splice(0, 0, text, 1000))
        case "cell_metadata", name, key:
            document.set_cell_metadata(CellId(name), {key: key}, max_bytes=1000)
        case "type", name, kind:
            document.set_cell_type(CellId(name), kind)
        case "clear", name:
            document.clear_outputs({CellId(name): ExecutionId("e")})
        case "metadata", key, value:
            document.set_metadata(key, value)


def state(document: Document) -> dict[str, Any]:
    cells = {f"cell {each.cell_id}": (each, document.place(each.cell_id)[1]) for each in document.cells()}
    return {**cells, **{f"metadata {key}": document.metadata(key) for key in document.metadata_keys()}}


def names(touched: Touched) -> set[str]:
    return {f"cell {name}" for name in touched.cells} | {f"metadata {key}" for key in touched.metadata}


@given(first=st.lists(EDIT, max_size=12), then=st.lists(EDIT, max_size=6))
@settings(max_examples=300, deadline=None)
def test_own_edits_and_merged_ones_are_told_alike(first: list[Any], then: list[Any]) -> None:
    document = Document.new()
    for each in first:
        _try(document, each)
    document.take_change()
    since, before = document.heads, state(document)
    for each in then:
        _try(document, each)
    own = document.touched(since)
    merged = document_touched.read(document._document.diff(since, document.heads))
    assert not own.everything
    assert not merged.everything
    after = state(document)
    # A cell's neighbour may be another one because of the neighbour; all else that differs is touched.
    differ = {name for name in before.keys() | after.keys() if _alone(before.get(name)) != _alone(after.get(name))}
    assert differ <= names(merged) <= names(own)
    for name, outputs in merged.cells.items():
        assert own.cells[name] or not outputs
    document.take_change()
    assert document.touched(document.heads) == Touched()


def _alone(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _try(document: Document, each: Any) -> None:
    try:
        edit(document, *each)
    except Refused:
        pass


@given(edits=st.lists(EDIT, max_size=25))
@settings(max_examples=200, deadline=None)
def test_a_cell_is_read_as_it_was_in_an_earlier_state(edits: list[Any]) -> None:
    document = Document.new()
    seen: list[tuple[list[bytes], list[DocumentCell]]] = []
    for each in edits:
        _try(document, each)
        seen.append((document.heads, document.cells()))
    for heads, cells in seen:
        assert all(document.cell(cell.cell_id, heads) == cell for cell in cells if document.has_cell(cell.cell_id))


def test_a_patch_that_cannot_be_read_touches_everything() -> None:
    assert document_touched.read(["Patch { something: new }"]).everything
    document = core.Document()
    with document.transaction() as change:
        change.put(core.ROOT, "unknown", core.ScalarType.Int, 1)
    assert document_touched.read(document.diff([], document.get_heads())).everything


@pytest.mark.parametrize("count", [2, 5])
def test_cells_that_share_a_position_are_told_when_they_are_moved_apart(count: int) -> None:
    document = Document.new()
    replicas = []
    for n in range(count):
        replica = Document(document._document.fork())
        replica.insert_cell(DocumentCell(CellId(f"c{n}"), "code", ""))
        replicas.append(replica._document)
    for replica in replicas:
        document._document.merge(replica)
    merged = Document(document._document)
    since = merged.heads
    merged.insert_cell(DocumentCell(CellId("new"), "code", ""), 1)
    moved = [CellId(f"c{n}") for n in range(1, count)]
    assert set(merged.touched(since).cells) == {CellId("new"), *moved}
    assert document_touched.read(merged._document.diff(since, merged.heads)).cells.keys() == {CellId("new"), *moved}
