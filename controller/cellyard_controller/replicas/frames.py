"""What controller and worker say to each other: a JSON object, and byte strings beside it.

frame = length of head (4 bytes, big endian)  head  contents of its `sizes`, one after the other
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

MAX_HEAD = 64 * 1024 * 1024
MAX_CONTENT = 1024 * 1024 * 1024
LENGTH = struct.Struct(">I")


class Broken(Exception):
    """What came is no frame."""


def encode(head: dict[str, Any], contents: Sequence[bytes] = ()) -> bytes:
    """One frame."""
    text = json.dumps({**head, "sizes": [len(content) for content in contents]}).encode()
    return b"".join([LENGTH.pack(len(text)), text, *contents])


def head_size(encoded: bytes) -> int:
    """How long the head is. Raises Broken."""
    (size,) = LENGTH.unpack(encoded)
    if size > MAX_HEAD:
        raise Broken(f"a head of {size} bytes")
    return int(size)


def head(encoded: bytes) -> tuple[dict[str, Any], list[int]]:
    """The head, and the sizes of what follows it. Raises Broken."""
    try:
        found = json.loads(encoded)
        sizes = [int(size) for size in found.pop("sizes")]
    except (ValueError, TypeError, KeyError, AttributeError) as bad:
        raise Broken(str(bad)) from None
    if min(sizes, default=0) < 0 or sum(sizes) > MAX_CONTENT:
        raise Broken(f"contents of {sum(sizes)} bytes")
    return found, sizes
