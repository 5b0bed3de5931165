"""What a backup is: a folder with a manifest, which is written last.

```
manifest.json       what is in it, with sizes and hashes
cellyard.sqlite     the database as it stood at one moment
seal.key            the key of what is sealed in it
blobs/ab/cdef...    every file that this database refers to, under the hash of its content
audit.jsonl ...     the audit log
damaged/...         documents that were set aside
```
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "cellyard.sqlite"
KEY = "seal.key"
BLOBS = "blobs"
_NAME = re.compile(
    rf"{re.escape(DATABASE)}|{re.escape(KEY)}|audit(\.[0-9]{{1,4}})?\.jsonl|damaged/[A-Za-z0-9._-]{{1,200}}"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STEP = 1024 * 1024
_LARGEST_MANIFEST = 64 * 1024 * 1024


class BackupRefused(Exception):
    """What is asked for cannot be: a folder that is in use or not empty, or a backup that is none (any more)."""


class BackupFailed(Exception):
    """It went wrong on the way: a full disk, a file that cannot be read. Nothing is left of it."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of a backup."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a backup."""

    format: int
    version: str
    """Of the release that has made it."""
    schema: int
    controller_id: str
    """Of the controller whose data it is."""
    taken_at: str
    """The moment that it shows, UTC."""
    files: Mapping[str, FileFacts]
    """By path in the backup; all but those of `blobs/`, which are called by their hashes."""
    blobs: int
    blob_bytes: int
    missing: tuple[str, ...]
    """Digests that the database refers to and whose files were missing or damaged when it was made."""
    damage: str
    """What SQLite finds wrong with the database; empty where nothing is."""

    def as_json(self) -> str:
        """As it stands in the file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a backup. Raises BackupRefused where it is none, or none that this release knows."""
        try:
            with (folder / MANIFEST).open("rb") as file:
                values = json.loads(file.read(_LARGEST_MANIFEST))
            if not isinstance(values, dict) or not isinstance(values["format"], int):
                raise ValueError
        except FileNotFoundError:
            raise BackupRefused(f"{folder} is no backup, or one that was not finished: it has no {MANIFEST}") from None
        except OSError as failed:
            raise BackupRefused(f"the backup {folder} cannot be read: {failed.strerror}") from None
        except (ValueError, KeyError, RecursionError):
            raise BackupRefused(f"the backup {folder} is damaged: its {MANIFEST} cannot be read") from None
        if values["format"] != FORMAT:
            raise BackupRefused(
                f"the backup {folder} has the format {values['format']}, and this release knows {FORMAT}: "
                "use the release that has made it"
            )
        try:
            files = {str(name): FileFacts(int(f["size"]), str(f["sha256"])) for name, f in values.pop("files").items()}
            missing = tuple(map(str, values.pop("missing")))
            made = cls(files=files, missing=missing, **values)
            schema = int(made.schema)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BackupRefused(f"the backup {folder} is damaged: its {MANIFEST} says too little") from None
        odd = next((name for name in files if not _NAME.fullmatch(name) or ".." in name), None)
        if odd is not None or not {DATABASE, KEY} <= files.keys() or schema < 1:
            raise BackupRefused(f"the backup {folder} is damaged: its {MANIFEST} names what no backup has")
        return made


def copy(source: Path, target: Path) -> FileFacts:
    """Copies a file as far as it goes now, 0600; on disk when this returns. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with _opened(source, os.O_RDONLY | os.O_NOFOLLOW) as content, _made(target) as copied:
        while piece := content.read(_STEP):
            digest.update(piece)
            size += len(piece)
            _write(copied, piece)
        os.fsync(copied.fileno())
    return FileFacts(size, digest.hexdigest())


def measure(path: Path) -> FileFacts:
    """Size and hash of a file. Raises OSError."""
    with _opened(path, os.O_RDONLY) as file:
        return FileFacts(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def put(content: bytes, target: Path) -> None:
    """Writes a small file, whole or not at all. Raises OSError."""
    partly = target.with_name(f"{target.name}.part")
    with _made(partly) as file:
        _write(file, content)
        os.fsync(file.fileno())
    partly.rename(target)
    sync(target.parent)


def sync(folder: Path) -> None:
    """What was put into a folder is there after a loss of power. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def blob_path(folder: Path, digest: str) -> Path:
    """Where the content of this digest lies in a data folder or a backup."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"no digest: {digest[:80]!r}")
    value = digest.removeprefix("sha256:")
    return folder / BLOBS / value[:2] / value[2:]


def referred(database: sqlite3.Connection) -> Iterator[str]:
    """The digests that a database refers to, in their order."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    some = [f"SELECT digest FROM {table}" for table in ("blob_uses", "artifacts") if table in tables]
    if some:
        for (digest,) in database.execute(f"{' UNION '.join(some)} ORDER BY digest"):
            yield str(digest)


def _opened(path: Path, flags: int) -> FileIO:
    return FileIO(os.open(path, flags | os.O_CLOEXEC), "rb")


def _made(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _write(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
