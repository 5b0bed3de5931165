"""What `list_files` gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cellyard._translate import moment
from cellyard_proto.v1 import files_pb2

_KINDS = {
    files_pb2.FILE_KIND_FILE: "file",
    files_pb2.FILE_KIND_FOLDER: "folder",
    files_pb2.FILE_KIND_LINK: "link",
}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry of a folder in the home."""

    name: str
    """What is no UTF-8 in it is shown as U+FFFD; such a file cannot be asked for."""
    path: str
    """Relative to the home, as `download` and the others take it."""
    kind: str
    """`file`, `folder`, `link` or `other` (a pipe, a socket); only files can be downloaded."""
    size: int
    """Bytes; 0 for what is no file."""
    modified_at: datetime | None


def file_info(entry: files_pb2.FileEntry, folder: str) -> FileInfo:
    """An entry of this folder."""
    return FileInfo(
        name=entry.name,
        path=f"{folder}/{entry.name}" if folder else entry.name,
        kind=_KINDS.get(entry.kind, "other"),
        size=entry.size,
        modified_at=moment(entry.modified_at),
    )
