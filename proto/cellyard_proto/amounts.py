"""Limits in words, the same wherever one is told."""

from __future__ import annotations

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def size(count: int) -> str:
    """A number of bytes: "512 bytes", "1.0 GiB"."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} bytes"


def duration(seconds: float) -> str:
    """A time span, in the largest unit that it is at least twice and whole in, days for a week and more: "5 s"."""
    for length, name in _SPANS:
        least = 7 if name == "d" else 2
        if seconds >= least * length and seconds % length == 0:
            return f"{seconds / length:g} {name}"
    return f"{seconds:g} s"
