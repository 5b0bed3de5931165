"""Jupyter's messages, and how they go over ZeroMQ (Jupyter messaging 5.4, "The wire protocol").

The agent speaks it itself, rather than through jupyter_client's sessions: it reads thousands of messages a
second, most of which it need not look into, and jupyter_client would double its memory. Messages are not
signed: the sockets stand in a folder of their own that nobody but this user can enter, and the code that a
signature would keep out runs in the kernel, where the key is.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cellyard_sandbox.text import clean, clean_tree

PROTOCOL = "5.4"

_DELIMITER = b"<IDS|MSG>"
_JSON = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and infinities are no JSON


class NotAMessage(Exception):
    """These frames are no Jupyter message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the kernel. Its content is read only when it is asked for."""

    kind: str
    """The header's `msg_type`."""
    parent: str
    """`msg_id` of the request that caused it; "" where there was none."""
    raw_content: bytes
    raw_metadata: bytes = b"{}"
    buffers: tuple[bytes, ...] = ()

    def content(self) -> dict[str, Any]:
        """The content, with clean text. Raises NotAMessage where it is no JSON object."""
        return _read_object(self.raw_content)

    def metadata(self) -> dict[str, Any]:
        """The metadata, likewise."""
        return _read_object(self.raw_metadata)


@dataclass(frozen=True, slots=True)
class Request:
    """A message to the kernel."""

    msg_id: str
    kind: str
    content: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    buffers: Sequence[bytes] = ()


def frames(request: Request) -> list[bytes]:
    """The frames of a message to the kernel, as they go over ZeroMQ."""
    header = {
        "msg_id": request.msg_id,
        "msg_type": request.kind,
        "session": "agent",
        "username": "agent",
        "date": datetime.datetime.now(datetime.UTC).isoformat(),
        "version": PROTOCOL,
    }
    parts = [json.dumps(part).encode() for part in (header, {}, request.metadata, request.content)]
    return [_DELIMITER, b"", *parts, *request.buffers]


def parse(frames: list[bytes]) -> Message:
    """A message from its frames. Raises NotAMessage."""
    try:
        start = frames.index(_DELIMITER)
        _, _, header, parent, metadata, content = frames[start : start + 6]
    except ValueError:
        raise NotAMessage("frames are missing") from None
    kind = _read_object(header).get("msg_type")
    caused_by = _read_object(parent).get("msg_id", "")
    if not isinstance(kind, str) or not isinstance(caused_by, str):
        raise NotAMessage("a header of the wrong types")
    return Message(kind, caused_by, content, metadata, tuple(frames[start + 6 :]))


def _read_object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = _decode_loosely(raw)
    try:
        value = _JSON.decode(text)
        if "\\ud" in text or "\\uD" in text:
            value = clean_tree(value)  # escaped surrogates, which may be alone
    except (ValueError, RecursionError) as bad:
        raise NotAMessage(str(bad)) from None
    if not isinstance(value, dict):
        raise NotAMessage("no JSON object")
    return value


def _decode_loosely(raw: bytes) -> str:
    try:
        return clean(raw.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace")
