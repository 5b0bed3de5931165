"""Limits in words, the same wherever one is told."""

from __future__ import annotations

import re

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?) ?([A-Za-z]*)")
_SPAN = re.compile(r"(\d{1,20}(?:\.\d{1,20})?) ?([a-z]*)")
_BYTES = {"": 1, "B": 1, "bytes": 1}
_BYTES |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
_BYTES |= {f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", start=1)}
_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


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


def parse_size(text: str) -> int:
    """Bytes of a size as people write it: "4GiB", "1.5 MiB", "500 MB", "1024". Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2] not in _BYTES:
        raise ValueError(f"{text[:40]!r} is no size: a number and one of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB")
    return _whole(found[1], _BYTES[found[2]])


def parse_duration(text: str) -> float:
    """Seconds of a time span as people write it: "90d", "24 h", "5min", "30". Raises ValueError."""
    found = _SPAN.fullmatch(text.strip())
    if found is None or found[2] not in _SECONDS:
        raise ValueError(f"{text[:40]!r} is no time span: a number and one of s, min, h, d")
    return float(found[1]) * _SECONDS[found[2]]


def _whole(number: str, unit: int) -> int:
    """A number of units, without the rounding of floats where it is whole itself."""
    return int(number) * unit if number.isdecimal() else int(float(number) * unit)
