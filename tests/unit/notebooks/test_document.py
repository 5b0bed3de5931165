"""The document keeps what people wrote, in order, through save, changes and load."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellyard_controller.errors import CellChanged, CellNotFound, InvalidRequest
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks.document import Document, DocumentDamaged

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def cell_id(name: str) -> CellId:
    return CellId(name)


def test_cells_stand_where_they_were_put() -> None:
    document = Document.new()
    for name, index in [("b", None), ("a", 0), ("d", 99), ("c", 2)]:
        document.insert_cell(cell_id(name), "code", name, index)
    assert [cell.source for cell in document.cells()] == ["a", "b", "c", "d"]


@given(TEXT, TEXT, TEXT, TEXT)
@settings(max_examples=300, deadline=None)
def test_set_source_writes_exactly_what_was_given(head: str, old: str, new: str, tail: str) -> None:
    document = Document.new()
    document.insert_cell(cell_id("c"), "code", head + old + tail)
    document.set_source(cell_id("c"), head + new + tail)
    assert document.cell(cell_id("c")).source == head + new + tail


def test_concurrent_edits_of_one_source_merge() -> None:
    here = Document.new()
    here.insert_cell(cell_id("c"), "code", "one two three")
    there = Document.load([here.save()])
    here.set_source(cell_id("c"), "ONE two three")
    there.set_source(cell_id("c"), "one two THREE")
    merged = Document.load([here.save(), there.save()])
    assert merged.cell(cell_id("c")).source == "ONE two THREE"


def test_compare_and_set_refuses_the_slower_one() -> None:
    document = Document.new()
    document.insert_cell(cell_id("c"), "code", "x = 1")
    seen = document.cell(cell_id("c")).version
    document.set_source(cell_id("c"), "x = 2", if_version=seen)
    with pytest.raises(CellChanged, match="'c'"):
        document.set_source(cell_id("c"), "x = 3", if_version=seen)
    assert document.cell(cell_id("c")).source == "x = 2"


def test_what_is_not_there_is_named() -> None:
    document = Document.new()
    for call in (document.cell, document.delete_cell):
        with pytest.raises(CellNotFound, match="cell 'nope' not found"):
            call(cell_id("nope"))
    with pytest.raises(InvalidRequest, match="unsupported cell type"):
        document.insert_cell(cell_id("c"), "video", "")
    document.insert_cell(cell_id("c"), "code", "")
    with pytest.raises(InvalidRequest, match="exists already"):
        document.insert_cell(cell_id("c"), "code", "")


def test_garbage_is_reported_as_damage() -> None:
    for chunks in ([b"garbage" * 20], [Document.new().save()[:-5]], [Document.new().save(), b"tail"]):
        with pytest.raises(DocumentDamaged):
            Document.load(chunks)


class AgainstAList(RuleBasedStateMachine):
    """A document does what a plain list of cells does, and its stored chunks give it again at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.document = Document.new()
        self.chunks = [self.document.take_change()]
        self.model: list[tuple[str, str, str]] = []
        self.metadata: dict[str, str] = {}
        self.made = 0

    @rule(source=TEXT, kind=st.sampled_from(["code", "markdown", "raw"]), index=st.none() | st.integers(0, 8))
    def insert(self, source: str, kind: str, index: int | None) -> None:
        self.made += 1
        name = f"cell-{self.made * 7919 % 101}-{self.made}"
        self.document.insert_cell(cell_id(name), kind, source, index, {"n": self.made})
        at = len(self.model) if index is None else index
        self.model.insert(at, (name, kind, source))
        self.chunks.append(self.document.take_change())

    @precondition(lambda self: self.model)
    @rule(data=st.data(), source=TEXT)
    def edit(self, data: st.DataObject, source: str) -> None:
        at = data.draw(st.integers(0, len(self.model) - 1))
        name, kind, _ = self.model[at]
        self.document.set_source(cell_id(name), source)
        self.model[at] = (name, kind, source)
        self.chunks.append(self.document.take_change())

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name, _, _ = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        self.document.delete_cell(cell_id(name))
        self.chunks.append(self.document.take_change())

    @rule(key=st.sampled_from("abc"), value=TEXT)
    def annotate(self, key: str, value: str) -> None:
        self.document.set_metadata(key, value)
        self.metadata[key] = value
        self.chunks.append(self.document.take_change())

    @rule()
    def compact(self) -> None:
        self.chunks = [self.document.save()]

    @rule()
    def load_again(self) -> None:
        self.document = Document.load(self.chunks)

    @invariant()
    def same(self) -> None:
        for document in (self.document, Document.load(self.chunks)):
            assert [(c.cell_id, c.cell_type, c.source) for c in document.cells()] == self.model
            assert {key: document.metadata(key) for key in "abc" if document.metadata(key) is not None} == self.metadata


AgainstAList.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgainstAList = AgainstAList.TestCase
