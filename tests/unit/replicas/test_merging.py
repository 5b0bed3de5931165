"""What replicas send is judged: good changes are taken, whatever else comes changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from automerge import core
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replicas.chunks import chunk, content, message

from cellyard_controller.ids import CellId
from cellyard_controller.notebooks.document import Document, DocumentCell
from cellyard_controller.replicas.inspection import SchemaLimits
from cellyard_controller.replicas.merging import Merged, MergeLimits, Merging, Refused, Unknown
from cellyard_proto.document import sync

ROOT, Str, Int = core.ROOT, core.ScalarType.Str, core.ScalarType.Int
ACTOR = b"a" * 32
LIMITS = MergeLimits(
    changes=20,
    operations=50_000,
    operations_at_once=45_000,
    message=1_000_000,
    document=2_000_000,
    schema=SchemaLimits(source=200_000, metadata=1000, identifier=50),
)


def _saved() -> bytes:
    document = Document.new()
    document.insert_cell(DocumentCell(CellId("a"), "code", "hello", {"k": 1}))
    document.insert_cell(DocumentCell(CellId("b"), "markdown", "x" * 100_000))
    document.set_metadata("key", "value")
    return document.save()


SAVED = _saved()


class Peer:
    """A replica, and the worker's part of the conversation."""

    def __init__(self, actor: bytes = ACTOR, limits: MergeLimits = LIMITS) -> None:
        self.merging = Merging(limits)
        self.merging.load("d", [SAVED])
        self.merging.open("s", ACTOR)
        self.document = core.Document.load(SAVED)
        self.document.set_actor(actor)
        self.before = self.document.get_heads()

    def id(self, *path: str) -> bytes:
        """The automerge id of what stands there."""
        at = ROOT
        for key in path:
            found = self.document.get(at, key)
            assert found is not None
            at = found[1]
        return at

    def change(self, edit: Callable[[core.Transaction], Any]) -> None:
        """Makes one change."""
        with self.document.transaction() as change:
            edit(change)

    def changes(self) -> list[core.Change]:
        """What was changed here."""
        return self.document.get_changes(self.before)

    def receive(self, chunks: list[bytes] | None = None, heads: list[bytes] | None = None) -> Merged:
        """The worker takes a message with these changes, or with all."""
        carried = [change.bytes for change in self.changes()] if chunks is None else chunks
        return self.merging.receive("d", "s", message(carried, self.document.get_heads() if heads is None else heads))

    def unchanged(self) -> bool:
        """Whether the worker's copy is as it was."""
        return self.merging.heads("d") == self.before


def put_cell(**values: Any) -> Callable[[Peer], None]:
    """Puts values into cell a."""

    def edit(peer: Peer) -> None:
        def put(change: core.Transaction) -> None:
            for key, value in values.items():
                change.put(peer.id("cells", "a"), key, Str if isinstance(value, str) else Int, value)

        peer.change(put)

    return edit


def put(*path: str, value: Any = "", kind: core.ScalarType = Str) -> Callable[[Peer], None]:
    """Puts a value somewhere."""
    return lambda peer: peer.change(lambda change: change.put(peer.id(*path[:-1]), path[-1], kind, value))


def put_map(*path: str) -> Callable[[Peer], None]:
    """Puts a map somewhere."""
    return lambda peer: peer.change(lambda change: change.put_object(peer.id(*path[:-1]), path[-1], core.ObjType.Map))


def insert(value: Any, kind: core.ScalarType = Str, times: int = 1) -> Callable[[Peer], None]:
    """Inserts into the Text of cell a."""

    def edit(peer: Peer) -> None:
        text = peer.id("cells", "a", "source")
        peer.change(lambda change: [change.insert(text, 0, kind, value) for _ in range(times)])

    return edit


NOT_OURS: dict[str, tuple[Callable[[Peer], None], str]] = {
    "a key at the root": (put("surprise"), "unknown key 'surprise'"),
    "another schema": (put("schema", value=2, kind=Int), "'schema' was replaced"),
    "cells replaced": (put_map("cells"), "'cells' was replaced"),
    "metadata replaced": (put("metadata"), "'metadata' was replaced"),
    "another minor version": (put("nbformat_minor", value=6, kind=Int), "nbformat_minor"),
    "a cell that is none": (put("cells", "c"), "cell 'c' is no map"),
    "a cell without anything": (put_map("cells", "c"), "the type of cell 'c' is no text"),
    "a cell's id": (put_map("cells", "c" * 51), "a cell's id is empty, too long"),
    "a key of a cell": (put_cell(surprise="x"), "cell 'a' has the unknown key 'surprise'"),
    "a type": (put_cell(type="sql"), "type of cell 'a' is 'sql'"),
    "a type that is no text": (put_cell(type=1), "the type of cell 'a' is no text"),
    "a position": (put_cell(position="no key!"), "no fractional index"),
    "an empty position": (put_cell(position=""), "no fractional index"),
    "a position at the end of all": (put_cell(position="z" * 27), "no fractional index"),
    "a long position": (put_cell(position="a0" + "V" * 600), "more than 500 bytes"),
    "a source that is a number": (put_cell(source=1), "the source of cell 'a' is no text"),
    "a source that is a map": (put_map("cells", "a", "source"), "the source of cell 'a' is no text"),
    "a large source": (put_cell(source="x" * 200_001), "more than 200000 bytes"),
    "attachments": (put_cell(attachments="[]"), "no JSON object"),
    "metadata that is no JSON": (put("cells", "a", "metadata", "k", value="{"), "no JSON"),
    "metadata that is a number": (put("cells", "a", "metadata", "k", value=1, kind=Int), "no text"),
    "deep metadata": (put("cells", "a", "metadata", "k", value="[" * 200 + "]" * 200), "nested more than"),
    "much metadata": (put("cells", "a", "metadata", "k", value='"' + "x" * 999 + '"'), "more than 1000 bytes"),
    "the notebook's metadata": (put("metadata", "notebook_metadata", value="[]"), "no JSON object"),
    "large metadata": (put("metadata", "k", value="x" * 1001), "more than 1000 bytes"),
    "two characters in one element": (insert("ab"), "not one character"),
    "a number in a text": (insert(1, Int), "not one character"),
    "much Text": (insert("x", times=40_001), "Text of 40006 characters"),
    "too many operations": (insert("x", times=45_001), "at most 45000 are allowed"),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_no_notebook_any_more_is_refused(name: str) -> None:
    edit, why = NOT_OURS[name]
    peer = Peer()
    edit(peer)
    with pytest.raises(Refused, match=why):
        peer.receive()
    assert peer.unchanged()


def test_good_changes_are_taken_and_told() -> None:
    peer = Peer()
    insert("x")(peer)
    put("metadata", "key", value="other")(peer)
    peer.change(lambda change: change.delete(peer.id("cells"), "b"))
    merged = peer.receive()
    assert len(merged.changes) == 3
    assert (sorted(merged.touched), merged.removed) == (["a", "b"], ["b"])
    document = Document.load([SAVED])
    document.take_over(merged.changes, [CellId(cell) for cell in merged.touched])
    assert document.cell(CellId("a")).source == "xhello"
    assert document.metadata("key") == "other"
    assert Document.load([SAVED, document.take_change()]).cells() == document.cells()


def test_another_actors_changes_are_refused() -> None:
    peer = Peer(actor=b"b" * 32)
    insert("x")(peer)
    with pytest.raises(Refused, match="made by actor 6262"):
        peer.receive()
    assert peer.unchanged()


def test_two_changes_of_one_number_are_refused() -> None:
    peer, twin = Peer(), Peer()
    insert("x")(peer)
    insert("y")(twin)
    peer.receive()
    with pytest.raises(Refused, match="duplicate seq"):
        peer.merging.receive("d", "s", message([change.bytes for change in twin.changes()]))


def test_another_document_is_refused() -> None:
    peer = Peer()
    peer.document = core.Document(ACTOR)
    peer.change(lambda change: change.put_object(ROOT, "cells", core.ObjType.Map))
    peer.before = []
    with pytest.raises(Refused, match="made in another document"):
        peer.receive()


def test_dependencies_may_come_later() -> None:
    peer = Peer()
    insert("x")(peer)
    insert("y")(peer)
    first, second = (change.bytes for change in peer.changes())
    assert peer.receive([second]) == Merged()
    need = peer.merging.generate("d", "s")
    assert need is not None
    assert sync.envelope(need).need == [peer.changes()[0].hash]
    peer.merging.follow("d", _others_change())
    assert peer.receive([first]).changes == [first, second]
    assert set(peer.document.get_heads()) < set(peer.merging.heads("d"))


def _others_change() -> list[bytes]:
    other = Document.load([SAVED])
    other.set_metadata("other", "x")
    return [other.take_change()]


@pytest.mark.parametrize("chunks", [1, 0], ids=["sent without them", "announced and never sent"])
def test_dependencies_that_never_come_are_refused(chunks: int) -> None:
    peer = Peer()
    insert("x")(peer)
    insert("y")(peer)
    second = peer.changes()[1].bytes

    def go_on() -> None:
        for _ in range(30):
            peer.receive([second][:chunks])
            peer.merging.generate("d", "s")

    with pytest.raises(Refused, match="missing dependencies"):
        go_on()
    assert peer.unchanged()


def test_what_waits_for_dependencies_is_bounded() -> None:
    peer = Peer()
    insert("x")(peer)
    for number in range(8):
        put_cell(source=f"{number}" + "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) * 3)(peer)

    def send_all() -> None:
        for change in peer.changes()[1:]:
            peer.receive([change.raw_bytes])

    with pytest.raises(Refused, match="bytes of changes wait"):
        send_all()


def test_what_is_held_back_is_nobody_elses_business() -> None:
    peer = Peer()
    insert("x")(peer)
    insert("y")(peer)
    peer.receive([peer.changes()[1].bytes])
    peer.merging.open("other", b"o" * 32)
    other = core.Document.load(SAVED)
    other.set_actor(b"o" * 32)
    with other.transaction() as change:
        change.put(peer.id("metadata"), "key", Str, "others")
    chunks = [change.bytes for change in other.get_changes(peer.before)]
    assert peer.merging.receive("d", "other", message(chunks)).changes == chunks


@pytest.mark.parametrize(
    "garbage", [b"", b"\x42", b"\x43", b"B" * 100, b"\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\0" * 10]
)
def test_garbage_is_refused(garbage: bytes) -> None:
    peer = Peer()
    with pytest.raises(Refused, match="none of automerge's sync protocol"):
        peer.merging.receive("d", "s", garbage)
    assert peer.unchanged()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_of_damaged_changes_nothing_is_taken_that_cannot_be_kept(data: st.DataObject) -> None:
    peer = Peer()
    insert("x")(peer)
    inside = bytearray(content(peer.changes()[0].raw_bytes))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(33, len(inside) - 1))
        inside[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=4))
    try:
        merged = peer.receive([chunk(bytes(inside))])
    except Refused:
        merged = Merged()
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        return  # the worker's loop forgets the document then
    document = Document.load([SAVED])
    document.take_over(merged.changes, [CellId(cell) for cell in merged.touched])
    document.insert_cell(DocumentCell(CellId("new"), "code", "1"), 0)
    assert Document.load([SAVED, document.take_change()]).cells() == Document.load([document.save()]).cells()


def test_what_the_worker_forgot_it_does_not_know() -> None:
    peer = Peer()
    peer.merging.close("s")
    with pytest.raises(Unknown, match="stream"):
        peer.merging.generate("d", "s")
    assert not peer.merging.forget_oldest()
    peer.merging.load("e", [SAVED])
    assert peer.merging.forget_oldest()
    with pytest.raises(Unknown, match="document"):
        peer.merging.heads("d")


def test_a_document_that_no_message_can_hold_is_said_to_be_too_large() -> None:
    small = MergeLimits(20, 50_000, 45_000, 200, 2_000_000, LIMITS.schema)
    peer = Peer(limits=small)
    empty = core.Document()
    opening = sync.next_message(empty, core.SyncState())
    assert opening is not None
    peer.merging.receive("d", "s", opening)
    with pytest.raises(Refused, match="too large for a live replica"):
        peer.merging.generate("d", "s")
