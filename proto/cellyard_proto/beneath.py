"""Opening what lies beneath the home, in a tree that hostile code changes meanwhile.

Nothing here follows a link or climbs: openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS has the kernel see to
it for the whole path at once. Where that call is refused (an old kernel, a seccomp filter that does not know it), the
path is walked name by name with O_NOFOLLOW, which comes to the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_OPENAT2 = 437  # on every architecture
_RESOLVE = 0x02 | 0x04 | 0x08  # NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_REFUSED = (errno.ENOSYS, errno.EPERM, errno.EINVAL)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_ALWAYS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
# Neither a pipe without a writer nor a lease that a cell has taken may make the agent wait.
_NO_WAITING = os.O_NONBLOCK

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class Home:
    """A folder beneath which things are opened."""

    def __init__(self, folder: int, *, walk: bool = False) -> None:
        """`folder`: its descriptor. `walk`: do without openat2."""
        self._folder = folder
        self._walks = walk

    def open_file(self, names: Sequence[str]) -> int:
        """A descriptor for reading whatever bears this name; it may be no file. Raises OSError."""
        return self._open(names, os.O_RDONLY)

    @contextmanager
    def folder(self, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder; with `make`, those that are missing are made. Raises OSError."""
        descriptor = self.open_folder(names, make=make)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_folder(self, names: Sequence[str], *, make: bool = False) -> int:
        """The same, to be closed by the caller."""
        try:
            return self._open(names, _FOLDER)
        except FileNotFoundError:
            if not make:
                raise
        return self._walk(names, _FOLDER, make=True)

    def _open(self, names: Sequence[str], flags: int) -> int:
        if not self._walks:
            try:
                return _openat2(self._folder, "/".join(names) or ".", flags | _ALWAYS | _NO_WAITING)
            except OSError as failed:
                if failed.errno not in _REFUSED:
                    raise
                if failed.errno != errno.EPERM:  # which a file can be the reason of, too
                    self._walks = True
        return self._walk(names, flags)

    def _walk(self, names: Sequence[str], flags: int, *, make: bool = False) -> int:
        here = os.open(".", _FOLDER | _ALWAYS, dir_fd=self._folder)
        for position, name in enumerate(names):
            last = position == len(names) - 1
            above = here
            try:
                if make:
                    try:
                        os.mkdir(name, 0o755, dir_fd=above)
                    except FileExistsError:
                        pass
                here = os.open(name, (flags if last else _FOLDER) | _ALWAYS | _NO_WAITING, dir_fd=above)
            finally:
                os.close(above)
        return here


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _How(flags, 0, _RESOLVE)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    opened: int = _libc.syscall(
        ctypes.c_long(_OPENAT2), ctypes.c_int(folder), ctypes.c_char_p(os.fsencode(path)), ctypes.byref(how), size
    )
    if opened < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return opened
