"""Puts a backup into an empty data folder. Blocks.

What is restored is a controller of its own: it gets another id, for the one that the backup was taken of may still run,
on the same engine, and would lose its containers to it. What had not ended at the backup's moment may have run since:
the restored controller ends it at its first start, and runs none of it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from cellyard_controller.api.server import CannotListen, lock
from cellyard_controller.backups import contents
from cellyard_controller.backups.contents import (
    BLOBS,
    DATABASE,
    KEY,
    BackupFailed,
    BackupRefused,
    FileFacts,
    Manifest,
)
from cellyard_controller.backups.taking import Progress
from cellyard_controller.store.database import RESTORED
from cellyard_controller.store.schema import SCHEMA_VERSION

_LOCK = "lock"
_MAY_BE_THERE = frozenset({_LOCK, "lost+found"})


def restore(source: Path, data: Path, progress: Progress = lambda *_: None) -> Manifest:
    """Makes a data folder of a backup. Raises BackupRefused, and then nothing has changed; BackupFailed."""
    source, data = source.absolute(), data.absolute()
    manifest = Manifest.read(source)
    if manifest.schema > SCHEMA_VERSION:
        raise BackupRefused(
            f"the backup {source} was made by a later release (schema {manifest.schema}, this one knows "
            f"{SCHEMA_VERSION}): use {manifest.version} or later"
        )
    with _own_folder(data):
        for name, facts in manifest.files.items():
            if name not in (DATABASE, KEY):
                (data / name).parent.mkdir(mode=0o700, exist_ok=True)
                _checked(source, name, data / name, facts)
        # A controller takes a folder with neither of these for a new one, and writes to no other: so they come last.
        copied = data / f"{DATABASE}.part"
        _checked(source, DATABASE, copied, manifest.files[DATABASE])
        progress("database", 1, 1)
        _copy_blobs(source, copied, data, manifest, progress)
        _make_its_own(copied, manifest)
        _checked(source, KEY, data / KEY, manifest.files[KEY])
        copied.rename(data / DATABASE)
        contents.sync(data)
    return manifest


@contextmanager
def _own_folder(data: Path) -> Iterator[None]:
    """An empty data folder, locked; where it comes to nothing, what was written is removed."""
    there = data.exists()
    if there and not data.is_dir():
        raise BackupRefused(f"{data} is no folder")
    with ExitStack() as held:
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(entry.name not in _MAY_BE_THERE for entry in data.iterdir()):
                if (data / _LOCK).exists():  # that it is in use says more
                    held.callback(os.close, lock(data / _LOCK, f"the data folder {data}"))
                raise BackupRefused(f"the data folder {data} is not empty: a backup is restored into a new one")
            data.chmod(0o700)
            held.callback(os.close, lock(data / _LOCK, f"the data folder {data}"))
        except CannotListen as in_use:
            raise BackupRefused(str(in_use)) from None
        except OSError as failed:
            raise BackupRefused(f"the data folder {data} cannot be used: {failed.strerror}") from None
        try:
            yield
        except BaseException as failed:
            for left in data.iterdir():
                if left.name not in _MAY_BE_THERE:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
            if not there:
                shutil.rmtree(data, ignore_errors=True)
            if isinstance(failed, OSError | sqlite3.Error | ValueError):
                raise BackupFailed(f"nothing was restored: {failed}") from failed
            raise


def _checked(source: Path, name: str, target: Path, facts: FileFacts) -> None:
    try:
        copied = contents.copy(source / name, target)
    except FileNotFoundError:
        raise BackupRefused(f"the backup {source} is damaged: {name} is missing") from None
    if copied != facts:
        how = "is cut" if copied.size < facts.size else "is not what was written"
        raise BackupRefused(f"the backup {source} is damaged: {name} {how} ({copied.size} of {facts.size} bytes)")


def _copy_blobs(source: Path, database: Path, data: Path, manifest: Manifest, progress: Progress) -> None:
    (data / BLOBS).mkdir(mode=0o700)
    missing = set(manifest.missing)
    with closing(sqlite3.connect(database)) as opened:
        for done, digest in enumerate(contents.referred(opened), start=1):
            if digest in missing:
                continue
            target = contents.blob_path(data, digest)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            name = str(contents.blob_path(source, digest).relative_to(source))
            try:
                copied = contents.copy(source / name, target)
            except FileNotFoundError:
                raise BackupRefused(f"the backup {source} is damaged: {name} is missing") from None
            if f"sha256:{copied.sha256}" != digest:
                raise BackupRefused(f"the backup {source} is damaged: {name} is not what was written")
            progress("files", done, manifest.blobs)
    for folder in (data / BLOBS).iterdir():
        contents.sync(folder)


def _make_its_own(database: Path, manifest: Manifest) -> None:
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("UPDATE meta SET value = ? WHERE key = 'controller_id'", (uuid.uuid4().hex,))
        # Its sandboxes are another machine's, or another controller's on this one: nobody looks for them here.
        held = "SELECT notebook_key FROM sandboxes WHERE state = 'claimed'"
        opened.execute(f"UPDATE notebooks SET kernel_end = 'node_lost' WHERE key IN ({held})")
        opened.execute("UPDATE sandboxes SET state = 'ended', end_reason = 'node_lost' WHERE state != 'ended'")
        opened.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (RESTORED, manifest.taken_at))
