"""Messages of automerge's sync protocol, as far as the binding does not tell what is in them.

A message is a byte for its kind (0x42, 0x43), then heads, needed hashes, what its sender has, and chunks of changes;
lists are their length and their items, numbers are unsigned LEB128, a hash has 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from automerge import core

_KINDS = (0x42, 0x43)
_HASH = 32


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a message says beside its changes."""

    heads: list[bytes]
    """The state that its sender's document is in."""
    need: list[bytes]
    """Changes that its sender knows of and lacks."""
    chunks: int
    """How many chunks of changes it carries."""


def envelope(message: bytes) -> Envelope:
    """Reads a message without its changes. Raises ValueError for what is none."""
    if message[:1] not in [bytes([kind]) for kind in _KINDS]:
        raise ValueError("it does not begin as one")
    heads, at = _hashes(message, 1)
    need, at = _hashes(message, at)
    haves, at = _number(message, at)
    for _ in range(haves):
        _, at = _hashes(message, at)
        size, at = _number(message, at)
        at = _within(message, at + size)
    return Envelope(heads, need, _number(message, at)[0])


def next_message(document: core.Document, state: core.SyncState) -> bytes | None:
    """What is to be said to the peer of this state, if anything."""
    message = cast("core.Message | None", document.generate_sync_message(state))
    return None if message is None else message.encode()


def apply(document: core.Document, changes: Sequence[bytes]) -> None:
    """Makes changes part of a document. Those whose dependencies it lacks it keeps aside.

    The binding takes changes in nothing but messages, so they are put into one.
    """
    if changes:
        parts = [bytes([_KINDS[0], 0, 0, 0]), _encoded(len(changes))]
        for change in changes:
            parts += [_encoded(len(change)), change]
        document.receive_sync_message(core.SyncState(), core.Message.decode(b"".join(parts)))


def _hashes(message: bytes, at: int) -> tuple[list[bytes], int]:
    count, at = _number(message, at)
    end = _within(message, at + count * _HASH)
    return [message[start : start + _HASH] for start in range(at, end, _HASH)], end


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = message[_within(message, at + 1) - 1]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it has a number that is too large")


def _within(message: bytes, end: int) -> int:
    if end > len(message):
        raise ValueError("it ends too early")
    return end


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
