"""Documents in the worker: a copy of each that is replicated, and what a replica's messages make of it.

A message that carries changes goes to a fork. Only what was verified there becomes the copy; so whatever a message
does, the copy and everybody else's messages do not see it. Changes whose dependencies have not come yet stay in the
fork: the protocol may send them later, because it names what a peer has by Bloom filters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from automerge import core

from cellyard_controller.replicas import inspection
from cellyard_controller.replicas.inspection import NotOurs, SchemaLimits, Survey
from cellyard_proto.document import sync

_PATIENCE = 16
"""Messages of a replica that may come while something is missing that it was asked for."""


class Unknown(Exception):
    """The worker has no such document or stream (any more): `load` or `open` it. The argument says which."""


class Refused(Exception):
    """The message is not taken; the text is for the client."""


@dataclass(frozen=True, slots=True)
class MergeLimits:
    """What one message may bring, and what a document may become."""

    changes: int
    operations: int
    """Of all changes of a message; a character is one."""
    operations_at_once: int
    """Of one change: they are taken over without a break."""
    message: int
    """Bytes, in both directions."""
    document: int
    """Bytes of all its changes."""
    schema: SchemaLimits


@dataclass(frozen=True, slots=True)
class Merged:
    """What a message brought."""

    changes: list[bytes] = field(default_factory=list)
    operations: int = 0
    touched: list[str] = field(default_factory=list)
    """Cells that were added, changed or removed."""
    removed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Copy:
    document: core.Document
    size: int
    survey: Survey
    last_operation: int
    """The highest number of an operation."""


@dataclass(slots=True)
class _Stream:
    actor: bytes
    state: core.SyncState = field(default_factory=core.SyncState)
    apart: core.Document | None = None
    """The copy, with this replica's changes in it that still miss others."""
    held: int = 0
    """Bytes of messages with such changes."""
    asked: int = 0
    """How often in a row the replica was asked for what it knows of."""


class Merging:
    """Copies by name, least recently used first, and streams by name."""

    def __init__(self, limits: MergeLimits) -> None:
        self._limits = limits
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._streams: dict[str, _Stream] = {}

    def load(self, name: str, chunks: Sequence[bytes]) -> None:
        """Begins to know a document, from what the store has of it."""
        document = core.Document.load(b"".join(chunks))
        last = max(change.max_op for change in document.get_changes([]))
        self._copies[name] = _Copy(document, sum(map(len, chunks)), inspection.survey(document), last)

    def heads(self, name: str) -> list[bytes]:
        """The state that a copy is in."""
        return self._copy(name).document.get_heads()

    def follow(self, name: str, changes: Sequence[bytes]) -> None:
        """Changes that the document has got otherwise."""
        copy = self._copy(name)
        before = copy.document.get_heads()
        sync.apply(copy.document, changes)
        copy.size += sum(map(len, changes))
        added = copy.document.get_changes(before)
        copy.last_operation = max([copy.last_operation, *(change.max_op for change in added)])
        copy.survey = inspection.survey(copy.document)

    def open(self, stream: str, actor: bytes) -> None:
        """Begins a replica's stream; one of that name is forgotten."""
        self._streams[stream] = _Stream(actor)

    def close(self, stream: str) -> None:
        """The stream has ended."""
        self._streams.pop(stream, None)

    def forget(self, name: str) -> None:
        """The document is not replicated any more, or is not what the copy says."""
        self._copies.pop(name, None)

    def forget_oldest(self) -> bool:
        """Makes room; False where there is only what was used last."""
        if len(self._copies) < 2:
            return False
        self._copies.popitem(last=False)
        return True

    def generate(self, name: str, stream: str) -> bytes | None:
        """What is to be said to a replica, if anything. Raises Refused where that is too much, or waits in vain."""
        copy, found = self._copy(name), self._stream(stream)
        document = copy.document
        if found.apart is not None:
            document = found.apart
            document.merge(copy.document)
        encoded = sync.next_message(document, found.state)
        if encoded is None:
            return None
        if len(encoded) > self._limits.message:
            raise Refused(
                f"the document is too large for a live replica: it takes a message of {len(encoded)} bytes, "
                f"and {self._limits.message} are allowed"
            )
        need = sync.envelope(encoded).need
        found.asked = found.asked + 1 if need else 0
        if found.asked > _PATIENCE:
            raise Refused(
                f"missing dependencies: changes were announced or sent that need {need[0].hex()}, "
                "which did not come when it was asked for"
            )
        return encoded

    def receive(self, name: str, stream: str, message: bytes) -> Merged:
        """Takes a replica's message; its changes are in the copy when this returns. Raises Refused."""
        copy, found = self._copy(name), self._stream(stream)
        try:
            chunks = sync.envelope(message).chunks
            decoded = core.Message.decode(message)
        except Exception as bad:  # the binding has no kinds of errors
            raise Refused(f"the message is none of automerge's sync protocol: {bad}") from None
        if not chunks:
            (found.apart or copy.document).receive_sync_message(found.state, decoded)
            return Merged()
        fork = found.apart or copy.document.fork()
        if found.apart is not None:
            fork.merge(copy.document)
        before = copy.document.get_heads()
        try:
            fork.receive_sync_message(found.state, decoded)
        except Exception as bad:  # as above
            raise Refused(f"the changes cannot be read: {bad}") from None
        merged = self._verify(copy, found, fork, fork.get_changes(before))
        if not _orphans(fork):
            copy.document, found.apart, found.held = fork, None, 0
            return merged
        found.held += len(message)
        if found.held > self._limits.message:
            raise Refused(f"missing dependencies: {found.held} bytes of changes wait for others")
        found.apart = fork
        sync.apply(copy.document, merged.changes)
        return merged

    def _verify(self, copy: _Copy, stream: _Stream, fork: core.Document, changes: Sequence[core.Change]) -> Merged:
        """What the fork has got, if the document may have it."""
        if not changes:
            return Merged()
        for change in changes:
            if change.actor_id != stream.actor:
                raise Refused(
                    f"a change was made by actor {change.actor_id.hex()[:80]}: a replica hands in what it made itself, "
                    f"as {stream.actor.hex()}, in this notebook"
                )
            if not change.deps:
                raise Refused("a change was made in another document: a replica takes this one before it changes it")
        last = _last_operation(changes, copy.last_operation)
        operations, encoded = sum(map(len, changes)), [change.bytes for change in changes]
        size = sum(map(len, encoded))
        _at_most(len(changes), self._limits.changes, "changes in a message")
        _at_most(operations, self._limits.operations, "operations in a message")
        _at_most(max(map(len, changes)), self._limits.operations_at_once, "operations in a change")
        _at_most(copy.size + size, self._limits.document, "bytes of changes in a document")
        try:
            survey = inspection.inspect(fork, copy.survey, self._limits.schema)
        except NotOurs as bad:
            raise Refused(f"the document would be none of a notebook any more: {bad}") from None
        _check_saved(fork)
        merged = Merged(encoded, operations, survey.touched(copy.survey), survey.removed(copy.survey))
        copy.survey, copy.last_operation = survey, last
        copy.size += size
        return merged

    def _copy(self, name: str) -> _Copy:
        copy = self._copies.get(name)
        if copy is None:
            raise Unknown("document")
        self._copies.move_to_end(name)
        return copy

    def _stream(self, stream: str) -> _Stream:
        found = self._streams.get(stream)
        if found is None:
            raise Unknown("stream")
        return found


def _orphans(document: core.Document) -> bool:
    """Whether it keeps changes aside whose dependencies it lacks."""
    message = sync.next_message(document, core.SyncState())
    return message is not None and bool(sync.envelope(message).need)


def _check_saved(fork: core.Document) -> None:
    """Automerge takes changes that are encoded otherwise than it would, and saves a document that cannot be loaded."""
    try:
        loaded = core.Document.load(fork.save())
    except Exception as bad:  # the binding has no kinds of errors
        raise Refused(f"the document could not be read again with these changes: {bad}") from None
    if sorted(loaded.get_heads()) != sorted(fork.get_heads()):
        raise Refused("the document could not be read again with these changes: it would be another one")


def _last_operation(changes: Sequence[core.Change], last: int) -> int:
    """The highest number of an operation after these. Numbers far ahead would leave none for whoever edits next."""
    for change in changes:
        if not 0 < change.start_op <= last + 1 or change.max_op != change.start_op + len(change) - 1:
            raise Refused("the changes cannot be read: their operations are numbered otherwise than automerge does")
        last = max(last, change.max_op)
    return last


def _at_most(number: int, most: int, what: str) -> None:
    if number > most:
        raise Refused(f"{number} {what}; at most {most} are allowed")
