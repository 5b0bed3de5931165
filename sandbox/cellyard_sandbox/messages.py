"""What a kernel publishes, as the events of the agent link.

The kernel is not trusted: whatever is not as Jupyter messaging has it is dropped or brought into shape here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from cellyard_proto.outputs import data_from_nbformat
from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox import values

DISPLAYS = frozenset({"display_data", "execute_result", "update_display_data", "error", "clear_output"})
"""The kinds of messages that `display` takes."""

_MAX_VALUE = values.MAX_BYTES + 8 * values.MAX_REPR


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text written to a stream. Neighbouring chunks are joined later, so they are no events yet."""

    name: str
    """stdout or stderr."""
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """Any other thing to show: an event without number and execution."""

    event: link_pb2.Event
    size: int
    """Bytes of the event."""


Item: TypeAlias = Chunk | Shown


def stream(content: dict[str, Any]) -> Chunk | None:
    """The text of a `stream` message."""
    name, text = content.get("name"), content.get("text")
    if name not in ("stdout", "stderr") or not isinstance(text, str) or not text:
        return None
    return Chunk(name, text)


def display(kind: str, content: dict[str, Any]) -> Shown | None:
    """A `display_data`, `execute_result`, `update_display_data`, `error` or `clear_output` message."""
    if kind == "error":
        return shown(link_pb2.Event(output=outputs_pb2.Output(error=_error(content))))
    if kind == "clear_output":
        return shown(link_pb2.Event(clear_output=outputs_pb2.ClearOutput(wait=content.get("wait") is True)))
    data = content.get("data")
    if not isinstance(data, dict) or not data:
        return None
    fields: dict[str, Any] = {
        "data": data_from_nbformat(data),
        "metadata_json": _metadata(content.get("metadata")),
        "display_id": _display_id(content),
    }
    if kind == "update_display_data":
        if not fields["display_id"]:
            return None
        return shown(link_pb2.Event(display_updated=outputs_pb2.DisplayUpdated(**fields)))
    if kind == "execute_result":
        result = outputs_pb2.ExecuteResult(execution_count=count(content.get("execution_count")), **fields)
        return shown(link_pb2.Event(output=outputs_pb2.Output(execute_result=result)))
    display_data = outputs_pb2.DisplayData(**fields)
    return shown(link_pb2.Event(output=outputs_pb2.Output(display_data=display_data)))


def comm(message: outputs_pb2.Comm) -> Shown:
    """A comm's message (see comms.py), as a thing to show."""
    return shown(link_pb2.Event(comm=message))


def shown(event: link_pb2.Event) -> Shown:
    """The event with its size."""
    return Shown(event, event.ByteSize())


def take_value(content: dict[str, Any]) -> outputs_pb2.Value | None:
    """Takes the value as data out of the content of an `execute_result`, where the kernel put one in."""
    data = content.get("data")
    encoded = data.pop(values.MIME, None) if isinstance(data, dict) else None
    if not isinstance(encoded, dict):
        return None
    text, is_repr = encoded.get("json"), encoded.get("is_repr")
    if not isinstance(text, str) or len(text) > _MAX_VALUE:
        return None
    return outputs_pb2.Value(json=text, is_repr=is_repr is True)


def count(value: Any) -> int:
    """An execution count, 0 where it is none."""
    return value if type(value) is int and 0 <= value < 2**31 else 0


def _error(content: dict[str, Any]) -> outputs_pb2.ErrorOutput:
    lines = content.get("traceback")
    return outputs_pb2.ErrorOutput(
        ename=_text(content.get("ename")),
        evalue=_text(content.get("evalue")),
        traceback=[line for line in lines if isinstance(line, str)] if isinstance(lines, list) else [],
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _metadata(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, dict) and value else ""


def _display_id(content: dict[str, Any]) -> str:
    transient = content.get("transient")
    value = transient.get("display_id") if isinstance(transient, dict) else None
    return str(value) if isinstance(value, str | int) else ""
