"""Frames of the agent link: four bytes of length (big endian), then one protobuf message.

Both ends use this module; neither trusts the other's length.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

MAX_FRAME = 32 * 1024 * 1024
"""Bytes of one message, at most. A longer frame ends the connection."""

_LENGTH = struct.Struct(">I")
_M = TypeVar("_M", bound=Message)


class FrameError(Exception):
    """The peer sent something that is no frame: too long, cut off, or not the expected message."""


def encode(message: Message) -> bytes:
    """One frame with this message. Raises FrameError where it is longer than MAX_FRAME."""
    body = message.SerializeToString()
    if len(body) > MAX_FRAME:
        raise FrameError(f"a message of {len(body)} bytes is longer than a frame may be ({MAX_FRAME})")
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader, kind: type[_M]) -> _M | None:
    """The next message, or None where the peer closed between two frames.

    Raises FrameError for what is no frame of this kind.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise FrameError("the connection ended inside a frame's length") from None
        return None
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes is longer than {MAX_FRAME}")
    try:
        body = await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise FrameError("the connection ended inside a frame") from None
    return _parse(kind, body)


class Decoder(Generic[_M]):
    """Messages out of bytes as they come, for an end that reads its socket itself."""

    def __init__(self, kind: type[_M]) -> None:
        self._kind = kind
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[_M]:
        """The messages that these bytes complete. Raises FrameError for what is no frame of this kind."""
        self._buffer += data
        messages = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes is longer than {MAX_FRAME}")
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            messages.append(_parse(self._kind, bytes(self._buffer[start + _LENGTH.size : end])))
            start = end
        del self._buffer[:start]
        return messages


def _parse(kind: type[_M], body: bytes) -> _M:
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError as bad:
        raise FrameError(f"not a {kind.DESCRIPTOR.name}: {bad}") from None
    return message
