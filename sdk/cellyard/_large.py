"""Large parts of outputs, which messages only refer to: where they stand, and their content in their place. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cellyard_proto.v1 import executions_pb2, notebooks_pb2, outputs_pb2

Message: TypeAlias = (
    executions_pb2.Execution
    | executions_pb2.ExecutionEvent
    | notebooks_pb2.Cell
    | notebooks_pb2.ListCellsResponse
    | notebooks_pb2.NotebookEvent
)
"""What may refer to large parts."""


class LargePart(Protocol):
    """One reference in a message."""

    @property
    def blob(self) -> outputs_pb2.Blob:
        """What is to be fetched."""

    def fill(self, text: str) -> None:
        """Puts the content in its place."""

    def drop(self) -> None:
        """There is no such content any more: the output says so."""


def large_parts(message: Message) -> Iterator[LargePart]:
    """The references in a message. It may be changed on the way."""
    for shown in _shown(message):
        if isinstance(shown, outputs_pb2.DisplayUpdated):
            yield from _of_bundle(shown)
        elif shown.HasField("stream"):
            if shown.stream.HasField("blob"):
                yield _StreamText(shown.stream)
        elif shown.HasField("display_data"):
            yield from _of_bundle(shown.display_data)
        elif shown.HasField("execute_result"):
            yield from _of_bundle(shown.execute_result)


def text_of(blob: outputs_pb2.Blob, content: bytes | bytearray) -> str | None:
    """A content as text; None where it is not what the reference means."""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != blob.digest:
        return None
    return content.decode()


_Bundle: TypeAlias = outputs_pb2.DisplayData | outputs_pb2.ExecuteResult | outputs_pb2.DisplayUpdated


@dataclass(frozen=True, slots=True)
class _StreamText:
    stream: outputs_pb2.StreamOutput

    @property
    def blob(self) -> outputs_pb2.Blob:
        return self.stream.blob

    def fill(self, text: str) -> None:
        self.stream.text = text
        self.stream.ClearField("blob")

    def drop(self) -> None:
        self.fill(f"{_gone(self.blob)}\n")


@dataclass(frozen=True, slots=True)
class _MimeValue:
    bundle: _Bundle
    mime: str

    @property
    def blob(self) -> outputs_pb2.Blob:
        return self.bundle.data[self.mime].blob

    def fill(self, text: str) -> None:
        value = self.bundle.data[self.mime]
        if value.blob.json:
            value.json = text
        else:
            value.text = text

    def drop(self) -> None:
        said = _gone(self.blob)
        del self.bundle.data[self.mime]
        plain = self.bundle.data["text/plain"]
        if not plain.HasField("blob"):
            plain.text = f"{plain.text}\n{said}" if plain.text else said


def _of_bundle(bundle: _Bundle) -> Iterator[LargePart]:
    for mime in [mime for mime, value in bundle.data.items() if value.HasField("blob")]:
        yield _MimeValue(bundle, mime)


def _shown(message: Message) -> Iterator[outputs_pb2.Output | outputs_pb2.DisplayUpdated]:
    if isinstance(message, executions_pb2.ExecutionEvent):
        if message.HasField("output"):
            yield message.output
        elif message.HasField("display_updated"):
            yield message.display_updated
    elif isinstance(message, notebooks_pb2.ListCellsResponse):
        for cell in message.cells:
            yield from cell.outputs
    elif isinstance(message, notebooks_pb2.NotebookEvent):
        if message.HasField("cell_changed"):
            yield from message.cell_changed.cell.outputs
        elif message.HasField("execution_changed"):
            yield from _shown(message.execution_changed.event)
    else:
        yield from message.outputs


def _gone(blob: outputs_pb2.Blob) -> str:
    return f"[cellyard: {blob.size} bytes of output are no longer kept]"
