"""How the process gives memory back that a flood of output has taken for a moment."""

from __future__ import annotations

import ctypes

# mallopt(3), of the GNU C library
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_SETTINGS = {
    _M_MMAP_THRESHOLD: 256 * 1024,  # what is larger is mapped for itself, and unmapped when it is freed
    _M_TRIM_THRESHOLD: 1024 * 1024,
    _M_ARENA_MAX: 2,  # else each thread keeps what it once needed
}


def give_back() -> None:
    """From now on large pieces of memory go back to the system at once. Without effect with other C libraries.

    Otherwise the first large piece that is freed teaches malloc to keep such pieces: after floods of output the
    process was 70 MiB larger for the rest of its life.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in _SETTINGS.items():
            mallopt(name, value)
