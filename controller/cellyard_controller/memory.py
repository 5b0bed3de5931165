"""How the process gives memory back that a flood of output has taken, and spares the collector what never goes."""

from __future__ import annotations

import ctypes
import gc

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


def keep_what_is_there() -> None:
    """Whatever there is now stays for the process' life: no collection looks at it again. From now on there are some.

    What is imported are half a million objects that refer to one another. To go through them, again and again while
    more is imported and once more at the process' end, took a third of a controller's start and most of its end.
    """
    gc.freeze()
    gc.enable()
