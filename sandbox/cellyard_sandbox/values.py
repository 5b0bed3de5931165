"""The value of a cell's last expression as data, or as its repr. Runs in the kernel: it must not fail or take long."""

from __future__ import annotations

from typing import Any, TypedDict

from cellyard_proto.values import MAX_BYTES, NotData, TooLarge, dump
from cellyard_proto.values import encode as encode_data
from cellyard_sandbox.text import clean

__all__ = ["MAX_BYTES", "MAX_REPR", "MIME", "Encoded", "encode"]

MIME = "application/vnd.cellyard.value+json"
"""Representation of a result under which the kernel hands its value to the agent; it goes no further."""

MAX_REPR = 64 * 1024
"""Characters of a repr, at most; a longer one is cut."""

_BUILT_IN = (str, bytes, list, tuple, dict, set, int)


class Encoded(TypedDict):
    """A value as it travels from the kernel to the agent."""

    json: str
    is_repr: bool


def encode(value: Any, shown: str = "") -> Encoded:
    """The value as data, or its repr where it is none. Raises nothing but what interrupts the cell.

    `shown` is the text that the cell shows for the value: it stands in for the repr of large built-in
    containers, whose own could take minutes.
    """
    try:
        return {"json": encode_data(value), "is_repr": False}
    except (NotData, TooLarge):
        return {"json": dump(_repr(value, shown)), "is_repr": True}


def _repr(value: Any, shown: str) -> str:
    try:
        text = shown if shown and isinstance(value, _BUILT_IN) else repr(value)
        return clean(text if len(text) <= MAX_REPR else text[:MAX_REPR] + "…")
    except Exception:  # __repr__ is the cell's own code
        return f"<{type(value).__name__} object>"
