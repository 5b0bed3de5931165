"""Automerge's chunks of changes taken apart and put together again, with a right checksum whatever is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

MAGIC = bytes.fromhex("856f4a83")
CHANGE, COMPRESSED = 1, 2


def number(value: int) -> bytes:
    """Unsigned LEB128."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def content(raw: bytes) -> bytes:
    """What is in a change that is not compressed."""
    assert raw[8] == CHANGE
    at, size, shift = 9, 0, 0
    while True:
        size |= (raw[at] & 0x7F) << shift
        shift += 7
        at += 1
        if raw[at - 1] < 0x80:
            return raw[at : at + size]


def chunk(inside: bytes, kind: int = CHANGE) -> bytes:
    """A change with this content."""
    body = bytes([kind]) + number(len(inside)) + inside
    return MAGIC + hashlib.sha256(body).digest()[:4] + body


def message(chunks: Sequence[bytes], heads: Sequence[bytes] = ()) -> bytes:
    """A message of the sync protocol that carries them."""
    carried = b"".join(number(len(each)) + each for each in chunks)
    return b"\x42" + number(len(heads)) + b"".join(heads) + b"\0\0" + number(len(chunks)) + carried
