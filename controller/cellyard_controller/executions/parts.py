"""Large parts of outputs, apart from the outputs: in their place stands a reference to a file.

A part is one value of a MIME bundle, or the text of a stream. In memory a BlobRef stands for a large one. In the
store's JSON null stands in its place, and the reference beside it, under a key of the output itself. What a kernel
shows is below other keys, so nothing that it shows can be taken for a reference.

A stream that runs is kept as it comes: chunks that are large become files, small ones stay in their events. At the
end its whole text becomes one. Tracebacks stay where they are: the protocol has no other place for them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from cellyard_controller import faults
from cellyard_controller.executions import blob_uses
from cellyard_controller.executions.model import Event
from cellyard_controller.executions.spooled import SpooledText
from cellyard_controller.ids import ExecutionId, NotebookKey
from cellyard_controller.store.blobs import Blobs, measure
from cellyard_proto.outputs import BlobRef, NbOutput, is_json_type

LARGE = 64 * 1024
"""Bytes from which on a part is a file."""
_REFS = "blobs"
_PIECE = 256 * 1024
_REF_SIZE = 128
"""What a reference counts where events are counted."""


class Parts:
    """The large parts of what one transaction stores of one execution."""

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        """`sizes`: of the events that are stored; no part of an event is larger."""
        self._sizes = tuple(sizes)
        self.streams: dict[int, BlobRef] = {}
        """Texts of whole streams, by the place of their output."""
        self._texts: dict[str, str] = {}
        self._used: set[str] = set()
        self._known: dict[int, BlobRef] = {}  # by identity: an output is the same object in its event
        self._instead: list[tuple[dict[str, Any], str, BlobRef]] = []
        self._lifted: dict[int, int] = {}

    def of(self, events: Sequence[Event]) -> list[Event]:
        """Events with references."""
        lifted = list(events)
        for place, (event, size) in enumerate(zip(events, self._sizes, strict=True)):
            if size >= LARGE:
                before = len(self._instead)
                lifted[place] = replace(event, body=self._lift(event.body, any_json=True))
                self._lifted[place] = sum(ref.size - _REF_SIZE for _, _, ref in self._instead[before:])
        return lifted

    def of_outputs(
        self, outputs: Sequence[NbOutput], *, any_json: bool = False, connection: Connection | None = None
    ) -> list[NbOutput]:
        """Outputs with references.

        Of JSON only what was found to be large before, unless `any_json`: its size is not to be seen. Texts that are
        in files are kept under their digest here, in the transaction of `connection`; raises StoreFailed.
        """
        lifted = [self._lift(output, any_json=any_json, connection=connection) for output in outputs]
        for place, output in enumerate(lifted):
            if isinstance(output.get("text"), BlobRef):
                self.streams[place] = output["text"]
        return lifted

    def keep(self, connection: Connection, blobs: Blobs, notebook: NotebookKey, execution_id: ExecutionId) -> None:
        """The files, and who uses them. On the writer's thread, before the commit; raises StoreFailed."""
        for digest, text in self._texts.items():
            blobs.keep(connection, digest, text)
        if self._texts:
            faults.point("blobs-written")
        blob_uses.add(connection, notebook, execution_id, self._used)

    def replace(self, sizes: list[int]) -> None:
        """After the commit: references stand in memory too, and events count what they are now."""
        for holder, key, ref in self._instead:
            holder[key] = ref
        for place, lifted in self._lifted.items():
            sizes[place] = max(_REF_SIZE, sizes[place] - lifted)

    def _lift(self, shown: dict[str, Any], *, any_json: bool, connection: Connection | None = None) -> dict[str, Any]:
        holder, keys = _places(shown)
        refs: dict[str, BlobRef | str] = {}
        for key in keys:
            value = holder[key]
            if isinstance(value, BlobRef):
                self._used.add(value.digest)
            elif isinstance(value, SpooledText):
                assert connection is not None
                refs[key] = kept = value.keep(connection, LARGE)
                if isinstance(kept, BlobRef):
                    self._used.add(kept.digest)
            elif isinstance(value, str) or any_json or id(value) in self._known:
                ref = self._ref(key, value)
                if ref is not None:
                    refs[key] = ref
                    self._instead.append((holder, key, ref))
        if not refs:
            return shown
        return {**shown, **refs} if holder is shown else {**shown, "data": {**holder, **refs}}

    def _ref(self, key: str, value: Any) -> BlobRef | None:
        known = self._known.get(id(value))
        if known is not None:
            return known
        text, is_json = _content(key, value)
        if not is_large(text):
            return None
        digest, size = measure(text)
        self._texts[digest] = text
        self._used.add(digest)
        self._known[id(value)] = ref = BlobRef(digest, size, is_json)
        return ref


def is_large(text: str) -> bool:
    """Whether it has as many bytes as make a part a file. A short text is not looked at."""
    length = len(text)
    return length >= LARGE or (length * 4 >= LARGE and not text.isascii() and len(text.encode()) >= LARGE)


def stored(shown: dict[str, Any]) -> dict[str, Any]:
    """An output, or the body of an event, as the store's JSON has it."""
    holder, keys = _places(shown)
    refs = {key: ref for key in keys if isinstance(ref := holder[key], BlobRef)}
    if not refs:
        return shown
    inside = {**holder, **dict.fromkeys(refs)}
    whole = inside if holder is shown else {**shown, "data": inside}
    return {**whole, _REFS: {key: [ref.digest, ref.size, ref.json] for key, ref in refs.items()}}


def restored(shown: dict[str, Any]) -> dict[str, Any]:
    """An output, or the body of an event, from the store's JSON."""
    refs = shown.pop(_REFS, None)
    if refs:
        holder, _ = _places(shown)
        for key, (digest, size, is_json) in refs.items():
            holder[key] = BlobRef(digest, size, is_json)
    return shown


def used(outputs: Sequence[NbOutput]) -> frozenset[str]:
    """The digests that outputs refer to."""
    places = (_places(output) for output in outputs)
    return frozenset(ref.digest for holder, keys in places for key in keys if isinstance(ref := holder[key], BlobRef))


def with_chunks(events: Sequence[Event], blobs: Blobs) -> list[Event]:
    """Events in which the chunks of streams are whole again, so that more can be joined to them. Reads files."""
    return [
        replace(event, body={**event.body, "text": _read(event.body["text"], blobs)})
        if isinstance(event.body.get("text"), BlobRef)
        else event
        for event in events
    ]


def part_json(ref: BlobRef, blobs: Blobs) -> Iterator[str]:
    """A part as it stands in a notebook's file, piece by piece. Reads its file, so it is work for a thread."""
    try:
        file = blobs.open_file(ref.digest)
    except OSError as failed:
        yield json.dumps(_gone(ref, failed))
        return
    decode = codecs.getincrementaldecoder("utf-8")().decode
    with file:
        if not ref.json:
            yield '"'
        while content := file.read(_PIECE):
            text = decode(content)
            yield text if ref.json else json.dumps(text)[1:-1]
        if not ref.json:
            yield '"'


def _read(ref: BlobRef, blobs: Blobs) -> str:
    try:
        return blobs.text(ref.digest)
    except OSError as failed:
        return f"\n{_gone(ref, failed)}\n"


def _gone(ref: BlobRef, failed: OSError) -> str:
    return f"[cellyard: {ref.size} bytes of output cannot be read: {failed.strerror}]"


def _places(shown: dict[str, Any]) -> tuple[dict[str, Any], Collection[str]]:
    """What holds the parts of an output or an event's body, and under which keys."""
    data = shown.get("data")
    if isinstance(data, dict):
        return data, data
    return shown, ("text",) if shown.get("output_type") == "stream" else ()


def _content(key: str, value: Any) -> tuple[str, bool]:
    """A part as text, and whether that is JSON. The JSON is written as a notebook's file has it."""
    if not is_json_type(key):
        if isinstance(value, str):
            return value, False
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            return "".join(value), False  # nbformat's multi-line text
    return json.dumps(value), True
