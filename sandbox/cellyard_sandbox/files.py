"""Folders emptied for a restart. Code in the sandbox may have prepared them, so links are never followed, and every
step goes through an open folder.
"""

from __future__ import annotations

import itertools
import os
import secrets
import stat
from collections.abc import Callable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(path: str) -> int:
    """A descriptor of a folder. Raises OSError."""
    return os.open(path, _FOLDER & ~os.O_NOFOLLOW)


def empty(path: str) -> None:
    """Removes all that is in a folder, as far as it can be removed.

    Folders inside are first moved up to it one by one, so that no depth and no length of a path matters.
    """
    try:
        folder = open_folder(path)
    except OSError:
        return  # there is no such folder in this sandbox
    try:
        empty_open(folder)
    finally:
        os.close(folder)


def empty_open(folder: int) -> None:
    """The same, for a folder that is open."""
    numbers = itertools.count()
    prefix = f".cellyard-{secrets.token_hex(8)}-"
    left: set[str] = set()
    while names := set(os.listdir(folder)) - left:
        for name in names:
            try:
                _remove(folder, name, lambda: f"{prefix}{next(numbers)}")
            except OSError:
                left.add(name)  # a mount point, or somebody else's


def _remove(folder: int, name: str, new_name: Callable[[], str]) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    os.chmod(name, 0o700, dir_fd=folder)
    inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        for entry in os.listdir(inner):
            if stat.S_ISDIR(os.stat(entry, dir_fd=inner, follow_symlinks=False).st_mode):
                os.chmod(entry, 0o700, dir_fd=inner)
                os.rename(entry, new_name(), src_dir_fd=inner, dst_dir_fd=folder)
            else:
                os.unlink(entry, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)
