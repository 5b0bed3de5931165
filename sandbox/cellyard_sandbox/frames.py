"""Messages as they go over the socket between the agent and the Python kernel, in both directions.

A message is a list of parts: its kind, the id of the request that it is, or that caused it, its content and its
metadata as JSON, and its buffers. A frame is its length, the number of parts, the length of each, and the parts;
every number takes four bytes (big endian).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of a frame, at most, without its length."""

_FEWEST = 4
_NUMBER = 4


class NotAFrame(Exception):
    """The peer sent something else, and nothing that follows can be made out."""


def encode(parts: Sequence[bytes]) -> bytes:
    """The frame of a message. Raises ValueError where it would be longer than MAX_FRAME."""
    lengths = [len(part) for part in parts]
    size = _NUMBER * (len(parts) + 1) + sum(lengths)
    if size > MAX_FRAME:
        raise ValueError(f"a message of {size} bytes is longer than {MAX_FRAME}")
    return b"".join((struct.pack(f">{len(parts) + 2}I", size, len(parts), *lengths), *parts))


class Reader:
    """Puts frames together from what comes in, piece by piece."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[list[bytes]]:
        """The messages that are whole with this. Raises NotAFrame."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _NUMBER:
                size = int.from_bytes(buffer[start : start + _NUMBER])
                if size > MAX_FRAME:
                    raise NotAFrame(f"a frame of {size} bytes")
                end = start + _NUMBER + size
                if len(buffer) < end:
                    break
                parts = _parts(buffer, start + _NUMBER, end)
                start = end
                yield parts
        finally:
            del buffer[:start]


def _parts(buffer: bytearray, start: int, end: int) -> list[bytes]:
    count = int.from_bytes(buffer[start : start + _NUMBER]) if end - start >= _NUMBER else 0
    position = start + _NUMBER * (count + 1)
    if count < _FEWEST or position > end:
        raise NotAFrame("parts are missing")
    lengths = struct.unpack_from(f">{count}I", buffer, start + _NUMBER)
    if position + sum(lengths) != end:
        raise NotAFrame("its parts do not fill it")
    parts = []
    for length in lengths:
        parts.append(bytes(buffer[position : position + length]))
        position += length
    return parts
