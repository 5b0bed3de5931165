"""What goes over the socket between code in a sandbox and the agent: one connection a call.

A frame is four bytes of length (big endian) and UTF-8. A request is three of them: the function's name as a JSON
string, its positional arguments as a JSON array, its keyword arguments as a JSON object; values are tagged as in
outputs.proto. An answer is two: its kind, and its content. The connection's end gives the call up.
"""

from __future__ import annotations

import struct

SOCKET_VARIABLE = "CELLYARD_HOST_SOCKET"
"""Environment variable of the kernel that has the socket's path."""

REQUEST, ANSWER = 3, 2
"""Frames of each."""

MAX_REQUEST = 1024 * 1024
"""Bytes of a request's frames together, at most, without their lengths."""

MAX_OPEN = 64
"""Calls that wait for their answer at a time, at most."""

VALUE, ERROR, UNAVAILABLE, REFUSED = "value", "error", "unavailable", "refused"
"""The kinds of an answer. Content: a value as JSON, a JSON object of `name` and `message`, a sentence, a sentence."""

_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size


def frame(content: bytes) -> bytes:
    """A frame with this content."""
    return _LENGTH.pack(len(content)) + content


def length(head: bytes | bytearray) -> int:
    """Bytes of the content that follows these LENGTH_BYTES."""
    value: int = _LENGTH.unpack_from(head)[0]
    return value
