"""Comms between code and front ends, which is what widgets live on (Jupyter messaging: "Custom Messages")."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from cellyard_proto.v1 import outputs_pb2
from cellyard_sandbox import wire

KINDS = frozenset({"comm_open", "comm_msg", "comm_close"})
"""The kinds of messages that `from_kernel` takes."""

_REMEMBERED = 10_000  # comms, of each of which it is known who opened it
_PREFIX = "comm:"


def from_kernel(message: wire.Message, content: dict[str, Any]) -> outputs_pb2.Comm | None:
    """What the code sent to front ends. None where it is no comm message."""
    comm_id = content.get("comm_id")
    if not isinstance(comm_id, str) or not comm_id:
        return None
    comm = outputs_pb2.Comm(comm_id=comm_id, buffers=message.buffers)
    data_json = _json(content.get("data"))
    if message.kind == "comm_open":
        target = content.get("target_name")
        comm.open.target_name = target if isinstance(target, str) else ""
        comm.open.data_json = data_json
        try:
            comm.open.metadata_json = _json(message.metadata())
        except wire.NotAMessage:
            comm.open.metadata_json = "{}"
    elif message.kind == "comm_msg":
        comm.message.data_json = data_json
    else:
        comm.close.data_json = data_json
    return comm


def to_kernel(comm: outputs_pb2.Comm, run_id: str) -> wire.Request:
    """The message for the kernel. What it brings about belongs to this run. Raises ValueError."""
    content: dict[str, Any] = {"comm_id": comm.comm_id}
    metadata: dict[str, Any] = {}
    match comm.WhichOneof("what"):
        case "open":
            kind, data_json = "comm_open", comm.open.data_json
            content["target_name"] = comm.open.target_name
            metadata = _object(comm.open.metadata_json)
        case "message":
            kind, data_json = "comm_msg", comm.message.data_json
        case "close":
            kind, data_json = "comm_close", comm.close.data_json
        case _:
            raise ValueError("a comm's message of no kind")
    content["data"] = _object(data_json)
    return wire.Request(f"{_PREFIX}{run_id}", kind, content, metadata, tuple(comm.buffers))


def run_of(parent: str) -> tuple[str, bool]:
    """The run to which what has this parent belongs, and whether it was brought about by a front end's message."""
    return parent.removeprefix(_PREFIX), parent.startswith(_PREFIX)


class Openers:
    """Which run opened which comm: what a front end does to a widget belongs to the cell that made it."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, str] = OrderedDict()

    def note(self, run_id: str, comm: outputs_pb2.Comm) -> None:
        """Follows what the code sends."""
        if comm.HasField("close"):
            self._runs.pop(comm.comm_id, None)
        elif comm.HasField("open") and run_id:
            self._runs[comm.comm_id] = run_id
            while len(self._runs) > _REMEMBERED:
                self._runs.popitem(last=False)

    def run_of(self, comm_id: str) -> str | None:
        """The run that opened it; None where nobody knows."""
        return self._runs.get(comm_id)


def _json(value: Any) -> str:
    return json.dumps(value if isinstance(value, dict) else {}, separators=(",", ":"))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("a comm's data is no JSON object")
    return value
