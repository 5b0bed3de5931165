"""The document keeps what people wrote, in order, through save, changes and load."""

from __future__ import annotations

import json
from typing import Any

import pytest
from automerge import core
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellyard_controller.errors import CellChanged, CellNotFound, InvalidRequest
from cellyard_controller.ids import CellId, ExecutionId
from cellyard_controller.notebooks import document_versions
from cellyard_controller.notebooks.document import (
    CELL_TYPES,
    NOTEBOOK_METADATA,
    Document,
    DocumentCell,
    DocumentDamaged,
    Splice,
)
from cellyard_proto.document import text as document_text
from cellyard_proto.document.text import ALL_TEXT, LARGEST_TEXT

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
KIND = st.sampled_from(CELL_TYPES)
KEY = st.sampled_from(["", "\0", "tags", "a", "ä"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def cell_id(name: str) -> CellId:
    return CellId(name)


def code(name: str, source: str = "", **more: Any) -> DocumentCell:
    return DocumentCell(cell_id(name), "code", source, **more)


def splice(index: int | None, delete_count: int, text: str, max_bytes: int = 10_000) -> Splice:
    return Splice(index, delete_count, text, max_bytes)


def texts(document: Document) -> list[str]:
    """The sources that are Text."""
    loaded = core.Document.load(document.save())
    found = loaded.get(core.ROOT, "cells")
    assert found is not None
    sources = [loaded.get(cell, "source") for _, cell in loaded.values(found[1])]
    return [loaded.text(source[1]) for source in sources if source and source[0] == core.ObjType.Text]


def in_order(document: Document) -> str:
    return "".join(document.cell_ids())


def test_cells_stand_where_they_were_put() -> None:
    document = Document.new()
    for name, index in [("b", None), ("a", 0), ("d", 99), ("c", 2)]:
        document.insert_cell(code(name), index)
    assert in_order(document) == "abcd"


@given(TEXT, TEXT, TEXT, TEXT)
@settings(max_examples=300, deadline=None)
def test_set_source_writes_exactly_what_was_given(head: str, old: str, new: str, tail: str) -> None:
    document = Document.new()
    document.insert_cell(code("c", head + old + tail))
    document.set_source(cell_id("c"), head + new + tail)
    assert document.cell(cell_id("c")).source == head + new + tail


@pytest.mark.parametrize(
    ("index", "delete_count", "text", "gives"),
    [
        (None, 0, "!", "añ😀b!"),
        (2, 1, "x", "añxb"),
        (0, 0, "", "añ😀b"),
        (0, 4, "", ""),
        (4, 0, "\r\n\0", "añ😀b\r\n\0"),
    ],
)
def test_a_splice_counts_characters(index: int | None, delete_count: int, text: str, gives: str) -> None:
    document = Document.new()
    document.insert_cell(code("c", "añ😀b"))
    document.splice_source(cell_id("c"), splice(index, delete_count, text))
    assert document.cell(cell_id("c")).source == gives


@pytest.mark.parametrize(("index", "delete_count"), [(-1, 0), (4, 0), (0, 4), (3, 1), (0, -1), (None, 1), (2, -1)])
def test_a_splice_outside_of_the_source_is_refused(index: int | None, delete_count: int) -> None:
    document = Document.new()
    document.insert_cell(code("c", "abc"))
    before = document.heads
    with pytest.raises(InvalidRequest, match="'c' has 3"):
        document.splice_source(cell_id("c"), splice(index, delete_count, "x"))
    assert document.heads == before


def test_a_source_does_not_grow_past_its_limit_by_splices() -> None:
    document = Document.new()
    document.insert_cell(code("c", "ä" * 5))
    document.splice_source(cell_id("c"), splice(1, 2, "abcd", max_bytes=10))
    with pytest.raises(InvalidRequest, match="would have 11 bytes; at most 10"):
        document.splice_source(cell_id("c"), splice(None, 0, "x", max_bytes=10))
    assert document.cell(cell_id("c")).source == "äabcdää"


def test_large_sources_are_one_value_so_that_their_document_stays_light() -> None:
    document = Document.new()
    large = "x = 1\n" * (LARGEST_TEXT // 2)
    document.insert_cell(code("large", large))
    document.insert_cell(code("small", "y"))
    document.set_source(cell_id("large"), large + "z")
    document.splice_source(cell_id("large"), splice(0, 5, "ä = 2", max_bytes=10**6))
    document.set_source(cell_id("small"), large)
    for loaded in (document, Document.load([document.save()])):
        assert loaded.cell(cell_id("large")).source == "ä = 2" + large[5:] + "z"
        assert loaded.source_length(cell_id("large")) == len(large) + 1
        assert loaded.cell(cell_id("small")).source == large
        assert texts(loaded) == []
    document.set_source(cell_id("large"), "small again")
    assert texts(document) == ["small again"]


def test_a_document_has_only_so_much_text_that_merges() -> None:
    document = Document.new()
    count = ALL_TEXT // LARGEST_TEXT
    for n in range(count + 2):
        document.insert_cell(code(f"c{n:02}", "x" * LARGEST_TEXT))
    assert len(texts(document)) == count
    document.delete_cell(cell_id("c00"))
    document = Document.load([document.save()])
    document.set_source(cell_id(f"c{count}"), "y" * LARGEST_TEXT)
    document.set_source(cell_id(f"c{count + 1}"), "y" * LARGEST_TEXT)
    assert texts(document).count("y" * LARGEST_TEXT) == 1
    assert [cell.source[0] for cell in document.cells()[-3:]] == ["x", "y", "y"]


def test_metadata_of_a_cell_does_not_grow_past_its_limit_key_by_key() -> None:
    document = Document.new()
    document.insert_cell(code("c", metadata={"a": "x" * 10}))
    document.set_cell_metadata(cell_id("c"), {"b": "y" * 10}, max_bytes=40)
    with pytest.raises(InvalidRequest, match="would have 47 bytes; at most 40"):
        document.set_cell_metadata(cell_id("c"), {"c": ""}, max_bytes=40)
    document.set_cell_metadata(cell_id("c"), {"c": ""}, remove=["a"], max_bytes=40)
    assert document.cell(cell_id("c")).metadata == {"b": "y" * 10, "c": ""}


def test_concurrent_edits_of_one_source_merge() -> None:
    here = Document.new()
    here.insert_cell(code("c", "one two three"))
    there = Document.load([here.save()])
    here.set_source(cell_id("c"), "ONE two three")
    there.splice_source(cell_id("c"), splice(8, 5, "THREE"))
    merged = Document.load([here.save(), there.save()])
    assert merged.cell(cell_id("c")).source == "ONE two THREE"


def test_concurrent_moves_and_metadata_merge() -> None:
    here = Document.new()
    for name in "abc":
        here.insert_cell(code(name, metadata={"n": name}))
    there = Document.load([here.save()])
    here.move_cell(cell_id("c"), None)
    here.set_cell_metadata(cell_id("a"), {"tags": ["here"]}, max_bytes=100)
    there.set_source(cell_id("c"), "edited while it was moved")
    there.set_cell_metadata(cell_id("a"), {"there": True}, remove=["n"], max_bytes=100)
    merged = Document.load([here.save(), there.save()])
    assert in_order(merged) == "cab"
    assert merged.cell(cell_id("c")).source == "edited while it was moved"
    assert merged.cell(cell_id("a")).metadata == {"tags": ["here"], "there": True}


def test_there_is_room_between_cells_that_share_a_position_after_a_merge() -> None:
    here = Document.new()
    here.insert_cell(code("a"))
    here.insert_cell(code("z"))
    others = [Document.load([here.save()]) for _ in range(3)]
    for other, name in zip(others, "bcd", strict=True):
        other.insert_cell(code(name), 1)
    merged = Document.load([other.save() for other in others])
    assert in_order(merged) == "abcdz"
    merged.insert_cell(code("x"), 2)
    assert in_order(merged) == "abxcdz"
    merged.move_cell(cell_id("z"), cell_id("c"))
    assert in_order(merged) == in_order(Document.load([merged.save()])) == "abxczd"


def test_compare_and_set_refuses_the_slower_one() -> None:
    document = Document.new()
    document.insert_cell(code("c", "x = 1"))
    seen = document.cell(cell_id("c")).version
    document.set_source(cell_id("c"), "x = 2", if_version=seen)
    with pytest.raises(CellChanged, match="'c'"):
        document.set_source(cell_id("c"), "x = 3", if_version=seen)
    with pytest.raises(CellChanged, match="'c'"):
        document.splice_source(cell_id("c"), splice(None, 0, "3"), if_version=seen)
    assert document.cell(cell_id("c")).source == "x = 2"


def test_what_is_not_there_is_named() -> None:
    document = Document.new()
    nope = cell_id("nope")
    for call in (
        lambda: document.cell(nope),
        lambda: document.delete_cell(nope),
        lambda: document.move_cell(nope, None),
        lambda: document.splice_source(nope, splice(None, 0, "x")),
        lambda: document.set_cell_metadata(nope, {}, max_bytes=100),
        lambda: document.set_cell_type(nope, "raw"),
        lambda: document.clear_outputs({nope: None}),
    ):
        with pytest.raises(CellNotFound, match="cell 'nope' not found"):
            call()
    with pytest.raises(InvalidRequest, match="unsupported cell type"):
        document.insert_cell(DocumentCell(cell_id("c"), "video", ""))
    document.insert_cell(code("c"))
    with pytest.raises(CellNotFound, match="cell 'nope' not found"):
        document.move_cell(cell_id("c"), nope)
    with pytest.raises(InvalidRequest, match="unsupported cell type"):
        document.set_cell_type(cell_id("c"), "video")
    with pytest.raises(InvalidRequest, match="exists already"):
        document.insert_cell(code("c"))


def test_a_whole_notebook_is_one_change_and_goes_into_an_empty_document_alone() -> None:
    document = Document.new()
    chunks = [document.take_change()]
    cells = [
        DocumentCell(cell_id("m"), "markdown", "# ä", {"tags": ["a"], "": None}, {"a.png": {"image/png": "AA=="}}),
        code("c", "x", cleared=ExecutionId("exec-1")),
        DocumentCell(cell_id("r"), "raw", "", {}, {}),
    ]
    document.fill(cells, '{"kernelspec": 1}', 2)
    chunks.append(document.take_change())
    assert len(core.Document.load(b"".join(chunks)).get_changes([])) == 2
    loaded = Document.load(chunks)
    assert loaded.cells() == cells
    assert loaded.metadata(NOTEBOOK_METADATA) == '{"kernelspec": 1}'
    assert (Document.new().nbformat_minor, loaded.nbformat_minor) == (5, 2)
    with pytest.raises(InvalidRequest, match="has 3 cells already"):
        loaded.fill([], "{}", 5)


def test_what_changes_nothing_is_no_change() -> None:
    document = Document.new()
    document.insert_cell(code("a", "x", metadata={"n": 1}))
    document.insert_cell(code("b"))
    document.set_metadata("k", "v")
    document.clear_outputs({cell_id("a"): ExecutionId("e")})
    document.take_change()
    document.set_source(cell_id("a"), "x")
    document.splice_source(cell_id("a"), splice(1, 0, ""))
    document.set_cell_metadata(cell_id("a"), {"n": 1}, remove=["n", "other"], max_bytes=100)
    document.set_cell_type(cell_id("a"), "code")
    document.move_cell(cell_id("a"), None)
    document.move_cell(cell_id("b"), cell_id("a"))
    document.move_cell(cell_id("b"), cell_id("b"))
    document.set_metadata("k", "v")
    document.clear_outputs({cell_id("a"): ExecutionId("e"), cell_id("b"): None})
    assert document.take_change() == b""


def test_garbage_is_reported_as_damage() -> None:
    for chunks in ([b"garbage" * 20], [Document.new().save()[:-5]], [Document.new().save(), b"tail"]):
        with pytest.raises(DocumentDamaged):
            Document.load(chunks)


def test_a_later_releases_document_is_not_taken_for_a_damaged_one() -> None:
    later = core.Document.load(Document.new().save())
    with later.transaction() as change:
        change.put(core.ROOT, "schema", core.ScalarType.Int, document_versions.VERSION + 1)
    with pytest.raises(document_versions.TooNew, match="this release reads up to"):
        Document.load([later.save()])


def test_an_old_document_is_brought_up_to_date_step_by_step() -> None:
    document = core.Document.load(Document.new().save())

    def rename(change: core.Transaction) -> None:
        change.put_object(core.ROOT, "pages", core.ObjType.Map)

    def add(change: core.Transaction) -> None:
        found = change.get(core.ROOT, "pages")
        assert found is not None
        change.put(found[1], "added", core.ScalarType.Boolean, True)

    document_versions.migrate(document, {1: rename, 2: add}, to=3)
    extracted = core.extract(document)
    assert isinstance(extracted, dict)
    assert (extracted["schema"], extracted["pages"]) == (3, {"added": True})
    document_versions.migrate(document, {}, to=3)


class AgainstAList(RuleBasedStateMachine):
    """A document does what a plain list of cells does, and its stored chunks give it again at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.document = Document.new()
        self.chunks = [self.document.take_change()]
        self.model: list[DocumentCell] = []
        self.metadata: dict[str, str] = {}
        self.made = 0

    def stored(self) -> None:
        self.chunks += filter(None, [self.document.take_change()])

    def replace(self, at: int, **values: Any) -> None:
        old = self.model[at]
        fields = {name: getattr(old, name) for name in DocumentCell.__dataclass_fields__}
        self.model[at] = DocumentCell(**{**fields, **values})

    def draw(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.model) - 1))

    @rule(source=TEXT, kind=KIND, index=st.none() | st.integers(0, 8), metadata=st.dictionaries(KEY, JSON))
    def insert(self, source: str, kind: str, index: int | None, metadata: dict[str, Any]) -> None:
        self.made += 1
        name = f"cell-{self.made * 7919 % 101}-{self.made}"
        cell = DocumentCell(cell_id(name), kind, source, metadata)
        self.document.insert_cell(cell, index)
        self.model.insert(len(self.model) if index is None else index, cell)
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), source=TEXT)
    def edit(self, data: st.DataObject, source: str) -> None:
        at = self.draw(data)
        self.document.set_source(self.model[at].cell_id, source)
        self.replace(at, source=source)
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), text=TEXT, append=st.booleans())
    def splice(self, data: st.DataObject, text: str, append: bool) -> None:
        at = self.draw(data)
        old = self.model[at].source
        start = len(old) if append else data.draw(st.integers(0, len(old)))
        end = data.draw(st.integers(start, len(old)))
        index = None if append else start
        self.document.splice_source(self.model[at].cell_id, splice(index, end - start, text))
        self.replace(at, source=old[:start] + text + old[end:])
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.document.delete_cell(self.model.pop(self.draw(data)).cell_id)
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), first=st.booleans())
    def move(self, data: st.DataObject, first: bool) -> None:
        moved = self.model.pop(self.draw(data))
        after = None if first or not self.model else self.model[self.draw(data)]
        self.document.move_cell(moved.cell_id, after.cell_id if after else None)
        self.model.insert(self.model.index(after) + 1 if after else 0, moved)
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), values=st.dictionaries(KEY, JSON), remove=st.sets(KEY))
    def describe(self, data: st.DataObject, values: dict[str, Any], remove: set[str]) -> None:
        at = self.draw(data)
        self.document.set_cell_metadata(self.model[at].cell_id, values, remove, max_bytes=10_000)
        kept = {key: value for key, value in self.model[at].metadata.items() if key not in remove}
        self.replace(at, metadata={**kept, **values})
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), kind=KIND)
    def convert(self, data: st.DataObject, kind: str) -> None:
        at = self.draw(data)
        self.document.set_cell_type(self.model[at].cell_id, kind)
        self.replace(at, cell_type=kind)
        self.stored()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), name=st.sampled_from("xyz"))
    def clear(self, data: st.DataObject, name: str) -> None:
        at = self.draw(data)
        self.document.clear_outputs({self.model[at].cell_id: ExecutionId(name)})
        self.replace(at, cleared=ExecutionId(name))
        self.stored()

    @rule(key=st.sampled_from("abc"), value=TEXT)
    def annotate(self, key: str, value: str) -> None:
        self.document.set_metadata(key, value)
        self.metadata[key] = value
        self.stored()

    @rule()
    def compact(self) -> None:
        self.chunks = [self.document.save()]

    @rule()
    def load_again(self) -> None:
        self.document = Document.load(self.chunks)

    @invariant()
    def same(self) -> None:
        for document in (self.document, Document.load(self.chunks)):
            cells = document.cells()
            assert cells == self.model
            # 1, 1.0 and True are equal in Python and three things in JSON.
            assert json.dumps([cell.metadata for cell in cells], sort_keys=True) == json.dumps(
                [cell.metadata for cell in self.model], sort_keys=True
            )
            assert {key: document.metadata(key) for key in "abc" if document.metadata(key) is not None} == self.metadata


class WithLittleText(AgainstAList):
    """The same where most sources are one value, and become Text and one value again."""

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(document_text, "LARGEST_TEXT", 20)
        self.patch.setattr(document_text, "ALL_TEXT", 40)
        super().__init__()

    def teardown(self) -> None:
        self.patch.undo()


AgainstAList.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
WithLittleText.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgainstAList = AgainstAList.TestCase
TestWithLittleText = WithLittleText.TestCase
