"""Definitions of tools as files of a folder."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cellyard.codemode.errors import StorageError
from cellyard.codemode.storage.protocols import StoredTool

MAX_DEFINITION = 1024 * 1024
"""Bytes of one definition."""


@dataclass(frozen=True, slots=True)
class Unreadable(StoredTool):
    """A file that there is, and that cannot be read: a problem of the `ToolSet` like one that is wrong."""

    reason: str


def read_folder(path: str | os.PathLike[str]) -> list[StoredTool]:
    """The folder's `*.yaml` files, by name, not those of its folders; none where there is no such folder.

    Of a file that is too large no more is read than shows it: the `ToolSet` then says so. Raises StorageError where
    the folder cannot be read.
    """
    folder = Path(path).expanduser()
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".yaml" and not file.name.startswith("."))
        return [_read(file) for file in files if not file.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as failure:
        raise StorageError(f"{folder}: the tools cannot be read: {failure.strerror}") from failure


def _read(file: Path) -> StoredTool:
    try:
        # A named pipe would hold whoever opens it until somebody writes.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Unreadable(file.stem, b"", str(file), "no regular file")
            return StoredTool(file.stem, stream.read(MAX_DEFINITION + 1), str(file))
    except OSError as failure:
        return Unreadable(file.stem, b"", str(file), f"it cannot be read: {failure.strerror}")
