"""Replicas and ordinary calls edit in any order, connections come and go, workers are lost: all end up the same."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cellyard._replica import Replica
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks.document import Document, DocumentCell, Splice
from cellyard_controller.replicas.inspection import SchemaLimits
from cellyard_controller.replicas.merging import MergeLimits, Merging, Unknown
from cellyard_proto.document import text as document_text

LIMITS = MergeLimits(1000, 10_000, 10_000, 1_000_000, 10_000_000, SchemaLimits(10_000, 10_000, 100))
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
REPLICAS = 3
WHICH = st.integers(0, REPLICAS - 1)
AT = st.integers(0, 50)
PICK = st.integers(0, 50)
"""One of however many there are. What is drawn may not depend on the documents: automerge's ids are random."""


@dataclass
class Client:
    """A replica and the two directions of its stream."""

    name: str
    replica: Replica = field(default_factory=Replica)
    up: deque[bytes] = field(default_factory=deque)
    down: deque[bytes | None] = field(default_factory=deque)
    """None: begin (anew)."""
    connected: bool = False
    begun: bool = False


class Notebook(RuleBasedStateMachine):
    """A room's document, the worker's copy of it, and three replicas."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(document_text, "LARGEST_TEXT", 20)
        self.patch.setattr(document_text, "ALL_TEXT", 60)
        self.document = Document.new()
        self.stored = [self.document.save()]
        self.document.take_change()
        self.merging = Merging(LIMITS)
        self.streams = 0
        self.ids = 0
        self.clients = [Client("") for _ in range(REPLICAS)]
        for number in range(REPLICAS):
            self.connect(number)
        self._settle()

    def teardown(self) -> None:
        for number in range(REPLICAS):
            self.connect(number)
        self._settle()
        cells = self.document.cells()
        for client in self.clients:
            found = [(cell.id, cell.cell_type, cell.source, cell.metadata) for cell in client.replica.cells()]
            assert found == [(cell.cell_id, cell.cell_type, cell.source, cell.metadata) for cell in cells]
            assert client.replica.metadata("key") == self.document.metadata("key")
        assert Document.load(self.stored).cells() == Document.load([self.document.save()]).cells() == cells
        self.patch.undo()

    # Connections

    @rule(which=WHICH)
    def cut(self, which: int) -> None:
        client = self.clients[which]
        client.connected = False
        client.up.clear()
        client.down.clear()
        self.merging.close(client.name)

    @rule(which=WHICH)
    def connect(self, which: int) -> None:
        client = self.clients[which]
        if not client.connected:
            self.streams += 1
            client.name, client.connected, client.begun = f"stream {self.streams}", True, False
            client.replica.lost()
            client.down.append(None)

    @rule()
    def lose_worker(self) -> None:
        self.merging = Merging(LIMITS)

    # Messages

    @rule(which=WHICH)
    def client_speaks(self, which: int) -> None:
        client = self.clients[which]
        if client.connected and (message := client.replica.next_message()) is not None:
            client.up.append(message)

    @rule(which=WHICH)
    def client_hears(self, which: int) -> None:
        client = self.clients[which]
        if client.down:
            message = client.down.popleft()
            if message is None:
                client.replica.begin(which.to_bytes(32))
            else:
                client.replica.receive(message)

    @rule(which=WHICH)
    def room_hears(self, which: int) -> None:
        client = self.clients[which]
        if client.up:
            merged = self._known(which, lambda: self.merging.receive("d", client.name, client.up[0]))
            client.up.popleft()
            client.begun = True
            if merged.changes:
                self.document.take_over(merged.changes, [CellId(cell) for cell in merged.touched])
                self.stored.append(self.document.take_change())

    @rule(which=WHICH)
    def room_speaks(self, which: int) -> None:
        client = self.clients[which]
        if client.connected and client.begun:
            message = self._known(which, lambda: self.merging.generate("d", client.name) if client.begun else None)
            if message is not None:
                client.down.append(message)

    # Ordinary calls

    @rule(index=st.none() | AT, source=TEXT)
    def call_creates(self, index: int | None, source: str) -> None:
        self.ids += 1
        self._store(lambda: self.document.insert_cell(DocumentCell(CellId(f"c{self.ids}"), "code", source), index))

    @rule(which=PICK, behind=st.none() | PICK, text=TEXT, what=st.sampled_from(["set", "append", "delete", "move"]))
    def call_edits(self, which: int, behind: int | None, text: str, what: str) -> None:
        if not (cells := self.document.cell_ids()):
            return
        cell = cells[which % len(cells)]
        after = None if behind is None else cells[behind % len(cells)]
        edits = {
            "set": lambda: self.document.set_source(cell, text),
            "append": lambda: self.document.splice_source(cell, Splice(None, 0, text, 10_000)),
            "delete": lambda: self.document.delete_cell(cell),
            "move": lambda: self.document.move_cell(cell, after),
        }
        self._store(edits[what])

    # Replicas

    @rule(which=WHICH, index=st.none() | AT, source=TEXT)
    def replica_creates(self, which: int, index: int | None, source: str) -> None:
        self.ids += 1
        change = self.clients[which].replica.create_cell(f"c{self.ids}", source, "markdown", index)
        assert change.cells == {f"c{self.ids}"}

    @rule(which=WHICH, value=TEXT)
    def replica_sets_metadata(self, which: int, value: str) -> None:
        self.clients[which].replica.set_metadata("key", value)

    @rule(
        which=WHICH,
        at=PICK,
        behind=st.none() | PICK,
        first=PICK,
        long=PICK,
        text=TEXT,
        what=st.sampled_from(["set", "splice", "splice", "delete", "move", "metadata", "type"]),
    )
    def replica_edits(
        self, which: int, at: int, behind: int | None, first: int, long: int, text: str, what: str
    ) -> None:
        replica = self.clients[which].replica
        if not (cells := replica.cells()):
            return
        cell = cells[at % len(cells)]
        start = first % (len(cell.source) + 1)
        count = long % (len(cell.source) - start + 1)
        after = None if behind is None else cells[behind % len(cells)]
        edits = {
            "set": lambda: replica.set_source(cell.id, text),
            "splice": lambda: replica.splice_source(cell.id, start, count, text),
            "delete": lambda: replica.delete_cell(cell.id),
            "move": lambda: replica.move_cell(cell.id, after.id if after else None),
            "metadata": lambda: replica.set_cell_metadata(cell.id, {text: text}, ["", "a"]),
            "type": lambda: replica.set_cell_type(cell.id, "raw"),
        }
        edits[what]()
        if what == "set":
            assert replica.cell(cell.id).source == text
        if what == "splice":
            assert replica.cell(cell.id).source == cell.source[:start] + text + cell.source[start + count :]
        if what == "move" and after not in (None, cell):
            ids = [found.id for found in replica.cells()]
            assert ids.index(cell.id) == ids.index(after.id) + 1

    @invariant()
    def document_is_whole(self) -> None:
        again = Document.load(self.stored)
        assert again.cells() == self.document.cells()

    # Inside

    def _store(self, edit: object) -> None:
        assert callable(edit)
        edit()
        change = self.document.take_change()
        if change:
            self.stored.append(change)

    def _known(self, which: int, ask):  # type: ignore[no-untyped-def]
        """What a room does around its worker."""
        client = self.clients[which]
        while True:
            try:
                changes = self.document.changes_since(self.merging.heads("d"))
                if changes:
                    self.merging.follow("d", changes)
                return ask()
            except Unknown as unknown:
                if str(unknown) == "document":
                    self.merging.load("d", self.stored)
                else:
                    self.merging.open(client.name, which.to_bytes(32))
                    if client.begun:
                        client.begun = False
                        client.down.append(None)

    def _settle(self) -> None:
        for _ in range(100):
            for number in range(REPLICAS):
                for step in (self.client_hears, self.client_speaks, self.room_hears, self.room_speaks):
                    step(number)
            if not any(client.up or client.down for client in self.clients):
                heads = sorted(self.document.heads)
                same = all(sorted(client.replica._document.get_heads()) == heads for client in self.clients)
                if same and all(client.replica.synced for client in self.clients):
                    return
        raise AssertionError("they do not come together")


TestConvergence = Notebook.TestCase
TestConvergence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
