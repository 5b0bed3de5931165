"""Takes a backup of a data folder, whether its controller runs or not. Blocks.

The database is copied inside one read transaction, so the copy shows one moment, however much is written meanwhile. The
files that it refers to are copied after it: a file comes to disk before the transaction that names it, and while the
folder's lock is held here the controller removes none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cellyard_controller import __version__
from cellyard_controller.backups import contents
from cellyard_controller.backups.contents import (
    BLOBS,
    DATABASE,
    FORMAT,
    KEY,
    MANIFEST,
    BackupFailed,
    BackupRefused,
    FileFacts,
    Manifest,
)
from cellyard_controller.notebooks import set_aside
from cellyard_controller.tenants import audit

Progress = Callable[[str, int, int], None]
"""What is copied ("database", "files"), how much of it is, and of how much; 0 where that is not known yet."""

_PAGES = 512
"""Of the database, copied at a time: 2 MiB."""


def take(data: Path, destination: Path, progress: Progress = lambda *_: None) -> Manifest:
    """A backup of this data folder in a new or empty folder. Raises BackupRefused, BackupFailed."""
    data, destination = data.absolute(), destination.absolute()
    if not (data / DATABASE).is_file():
        raise BackupRefused(
            f"there is no {DATABASE} in {data}: name a controller's data folder with --data. "
            "A store on PostgreSQL is backed up with pg_dump"
        )
    if destination.resolve().is_relative_to(data.resolve()):
        raise BackupRefused(f"{destination} is in the data folder itself: choose a place outside of {data}")
    with _own_folder(destination), _nothing_removed(data):
        taken_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        files = {DATABASE: _copy_database(data / DATABASE, destination / DATABASE, progress)}
        with closing(sqlite3.connect(destination / DATABASE)) as database:
            about = dict(database.execute("SELECT key, value FROM meta"))
            damage = _damage(database)
            blobs, size, missing = _copy_blobs(database, data, destination, progress)
        files |= {name: contents.copy(data / name, destination / name) for name in _others(data, destination)}
        manifest = Manifest(
            format=FORMAT,
            version=__version__,
            schema=int(about["schema_version"]),
            controller_id=about["controller_id"],
            taken_at=taken_at,
            files=files,
            blobs=blobs,
            blob_bytes=size,
            missing=missing,
            damage=damage,
        )
        contents.sync(destination)
        contents.put(manifest.as_json().encode(), destination / MANIFEST)
    return manifest


@contextmanager
def _own_folder(destination: Path) -> Iterator[None]:
    """An empty folder to write to; where it comes to nothing, what was written is removed."""
    there = destination.exists()
    try:
        destination.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(destination.iterdir()):
            raise BackupRefused(f"{destination} is not empty: a backup needs a folder of its own")
        destination.chmod(0o700)
    except OSError as failed:
        raise BackupRefused(f"{destination} cannot be used: {failed.strerror}") from None
    try:
        yield
    except BaseException as failed:
        for left in destination.iterdir():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        if not there:
            destination.rmdir()
        if isinstance(failed, OSError | sqlite3.Error | KeyError | ValueError):
            raise BackupFailed(f"the backup was not made: {failed}") from failed
        raise


@contextmanager
def _nothing_removed(data: Path) -> Iterator[None]:
    """Meanwhile the controller removes no file that nothing refers to any more: the copied database may."""
    folder = data / BLOBS
    if not folder.is_dir():  # of a release that had none
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _copy_database(path: Path, target: Path, progress: Progress) -> FileFacts:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as source:
        source.execute("PRAGMA query_only=ON")
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM meta").fetchone()  # from here on it reads this moment
        with closing(sqlite3.connect(target, isolation_level=None)) as copied:
            copied.execute("PRAGMA synchronous=OFF")  # it is synced as a whole
            source.backup(copied, pages=_PAGES, progress=lambda _, left, of: progress("database", of - left, of))
            copied.execute("PRAGMA journal_mode=DELETE")  # one file, and nothing beside it
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return contents.measure(target)


def _damage(database: sqlite3.Connection) -> str:
    try:
        said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as damaged:
        said = str(damaged)
    return "" if said == "ok" else said[:500]


def _copy_blobs(
    database: sqlite3.Connection, data: Path, destination: Path, progress: Progress
) -> tuple[int, int, tuple[str, ...]]:
    """How many files were copied, their bytes, and the digests of those that are missing or damaged."""
    count = size = 0
    missing: list[str] = []
    (destination / BLOBS).mkdir(mode=0o700)
    of = sum(1 for _ in contents.referred(database))
    for done, digest in enumerate(contents.referred(database), start=1):
        source, target = contents.blob_path(data, digest), contents.blob_path(destination, digest)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            copied = contents.copy(source, target)
        except FileNotFoundError:
            missing.append(digest)
            continue
        if f"sha256:{copied.sha256}" != digest:
            target.unlink()
            missing.append(digest)
            continue
        count, size = count + 1, size + copied.size
        progress("files", done, of)
    for folder in (destination / BLOBS).iterdir():
        contents.sync(folder)
    contents.sync(destination / BLOBS)
    return count, size, tuple(missing)


def _others(data: Path, destination: Path) -> Iterator[str]:
    """What else is kept, by its path in the folder."""
    yield KEY
    yield from (path.name for path in audit.files(data))
    damaged = set_aside.kept(data)
    if damaged:
        (destination / set_aside.FOLDER).mkdir(mode=0o700)
    yield from (f"{set_aside.FOLDER}/{path.name}" for path in damaged)
