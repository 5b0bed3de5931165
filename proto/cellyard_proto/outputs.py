"""How a cell's outputs come from the events of its execution, and outputs between protobuf and nbformat.

An output is a dict as nbformat 4 has it, plus, on displays that can be updated, `transient.display_id` as in
Jupyter's messages. Controller and SDK fold the same events with the same rules, so both see the same outputs.
Rules: Jupyter messaging (stream, display_data, update_display_data, clear_output) and JupyterLab's output area.

In the controller a large part (a stream's text, one value of a MIME bundle) may be a BlobRef. `from_nbformat` sends
it on as one; `to_nbformat` refuses one, because neither a sandbox nor a client may name content that it does not send.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cellyard_proto.stream_text import StreamText, apply_controls
from cellyard_proto.v1 import outputs_pb2 as pb

NbOutput: TypeAlias = dict[str, Any]

_JSON_TYPE = re.compile(r"^application/(.*\+)?json$")
_NO_BLOB = "a blob stands where content is due"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Stands for a part that is kept as a file, under the hash of its content."""

    digest: str
    """ "sha256:" and 64 hexadecimal digits."""
    size: int
    """Bytes of the content (UTF-8)."""
    json: bool = False
    """The content is a JSON document, else text."""


def is_json_type(mime: str) -> bool:
    """Whether nbformat keeps this MIME type as a JSON document rather than as text."""
    return _JSON_TYPE.match(mime) is not None


class OutputFold:
    """The outputs of one execution, built event by event."""

    def __init__(self, outputs: Iterable[NbOutput] = (), *, text: Callable[[], StreamText] = StreamText) -> None:
        """`text`: makes what holds the text of a stream."""
        self._outputs: list[NbOutput] = []
        self._new_text = text
        self._clear_pending = False
        for output in outputs:
            self.append(output)

    def joins(self, output: NbOutput) -> bool:
        """Whether it is a chunk of the stream that stands last, and so no output of its own.

        To a text that is kept elsewhere nothing is joined here; a neighbour of the same stream belongs to it.
        """
        last = self._outputs[-1] if self._outputs and not self._clear_pending else None
        return (
            last is not None
            and output["output_type"] == last["output_type"] == "stream"
            and output["name"] == last["name"]
            and isinstance(last["text"], StreamText)
        )

    def append(self, output: NbOutput) -> None:
        """Adds an output; a chunk of the stream that stands last is joined to it."""
        if self._clear_pending:
            self.clear(wait=False)
        if self.joins(output):
            self._outputs[-1]["text"].append(output["text"])
            return
        output = dict(output)
        if output["output_type"] == "stream" and not isinstance(output["text"], BlobRef):
            chunk, output["text"] = output["text"], self._new_text()
            output["text"].append(chunk)
        self._outputs.append(output)

    def clear(self, *, wait: bool) -> None:
        """Empties the outputs, now or when the next one comes."""
        self._clear_pending = wait
        if not wait:
            self._outputs.clear()

    def update_display(self, display_id: str, data: dict[str, Any], metadata: dict[str, Any]) -> bool:
        """Replaces what was displayed under this id; False where nothing was."""
        found = False
        for output in self._outputs:
            if display_id and output.get("transient", {}).get("display_id") == display_id:
                output["data"] = data
                output["metadata"] = metadata
                found = True
        return found

    def display_ids(self) -> set[str]:
        """The ids under which something is displayed."""
        ids = {output.get("transient", {}).get("display_id", "") for output in self._outputs}
        return ids - {""}

    @property
    def clear_waits(self) -> bool:
        """Whether the outputs go when the next one comes."""
        return self._clear_pending

    def outputs(self, *, as_they_came: bool = False, in_files: bool = False) -> list[NbOutput]:
        """The outputs as they stand, streams with carriage returns and backspaces applied, or `as_they_came`.

        `in_files`: a text that is in a file is left there; its StreamText stands for it.
        """
        return [
            {**output, "text": _shown(output["text"], as_they_came, in_files)}
            if isinstance(output.get("text"), StreamText)
            else dict(output)
            for output in self._outputs
        ]

    def keep_elsewhere(self, texts: Mapping[int, BlobRef]) -> None:
        """The texts of streams, by their place in `outputs`, are kept elsewhere from now on."""
        for place, text in texts.items():
            self._outputs[place]["text"] = text


def _shown(text: StreamText, as_they_came: bool, in_files: bool) -> StreamText | str:
    if in_files and text.in_file:
        return text
    whole = text.whole()
    return whole if as_they_came else apply_controls(whole)


def to_nbformat(output: pb.Output) -> NbOutput:
    """An output from its protobuf form.

    Raises ValueError where its JSON is none, its kind is not set, or a blob stands in for content.
    """
    kind = output.WhichOneof("kind")
    if kind == "stream":
        if output.stream.HasField("blob"):
            raise ValueError(_NO_BLOB)
        return {"output_type": "stream", "name": output.stream.name, "text": output.stream.text}
    if kind == "error":
        error = output.error
        return {
            "output_type": "error",
            "ename": error.ename,
            "evalue": error.evalue,
            "traceback": list(error.traceback),
        }
    if kind == "display_data":
        shown: pb.DisplayData | pb.ExecuteResult = output.display_data
        result: NbOutput = {"output_type": "display_data"}
    elif kind == "execute_result":
        shown = output.execute_result
        result = {"output_type": "execute_result", "execution_count": output.execute_result.execution_count}
    else:
        raise ValueError("an output of no kind")
    result["data"] = data_to_nbformat(shown.data)
    result["metadata"] = metadata_to_nbformat(shown.metadata_json)
    if shown.display_id:
        result["transient"] = {"display_id": shown.display_id}
    return result


def from_nbformat(output: Mapping[str, Any]) -> pb.Output:
    """An output in its protobuf form. Raises ValueError for an unknown output_type."""
    kind = output["output_type"]
    if kind == "stream":
        text = output["text"]
        if isinstance(text, BlobRef):
            return pb.Output(stream=pb.StreamOutput(name=output["name"], blob=_blob(text)))
        return pb.Output(stream=pb.StreamOutput(name=output["name"], text=text))
    if kind == "error":
        return pb.Output(
            error=pb.ErrorOutput(ename=output["ename"], evalue=output["evalue"], traceback=list(output["traceback"]))
        )
    shown: dict[str, Any] = {
        "data": data_from_nbformat(output["data"]),
        "metadata_json": metadata_from_nbformat(output.get("metadata", {})),
        "display_id": output.get("transient", {}).get("display_id", ""),
    }
    if kind == "display_data":
        return pb.Output(display_data=pb.DisplayData(**shown))
    if kind == "execute_result":
        count = output.get("execution_count") or 0
        return pb.Output(execute_result=pb.ExecuteResult(execution_count=count, **shown))
    raise ValueError(f"an output of an unknown kind: {kind!r}")


def data_to_nbformat(data: Mapping[str, pb.MimeValue]) -> dict[str, Any]:
    """A MIME bundle as nbformat keeps it: JSON types as objects, all others as text.

    Raises ValueError where JSON is none, or a blob stands in for content.
    """
    return {mime: _from_mime_value(value) for mime, value in data.items()}


def data_from_nbformat(data: Mapping[str, Any]) -> dict[str, pb.MimeValue]:
    """A MIME bundle in its protobuf form."""
    return {mime: _mime_value(mime, value) for mime, value in data.items()}


def _from_mime_value(value: pb.MimeValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "blob":
        raise ValueError(_NO_BLOB)
    return json.loads(value.json) if kind == "json" else value.text


def _blob(ref: BlobRef) -> pb.Blob:
    return pb.Blob(digest=ref.digest, size=ref.size, json=ref.json)


def _mime_value(mime: str, value: Any) -> pb.MimeValue:
    if isinstance(value, BlobRef):
        return pb.MimeValue(blob=_blob(value))
    if isinstance(value, str) and not is_json_type(mime):
        return pb.MimeValue(text=value)
    if isinstance(value, list) and not is_json_type(mime) and all(isinstance(line, str) for line in value):
        return pb.MimeValue(text="".join(value))  # nbformat's multi-line text
    return pb.MimeValue(json=json.dumps(value, separators=(",", ":")))


def metadata_to_nbformat(text: str) -> dict[str, Any]:
    """Metadata from its JSON text; empty text is {}. Raises ValueError where it is no object."""
    metadata = json.loads(text) if text else {}
    if not isinstance(metadata, dict):
        raise ValueError("metadata is no JSON object")
    return metadata


def metadata_from_nbformat(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON text; {} is empty."""
    return json.dumps(metadata, separators=(",", ":")) if metadata else ""
