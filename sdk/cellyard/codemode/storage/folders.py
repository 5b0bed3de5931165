"""Folders that several programs write at once, and in which nothing follows a link or climbs.

A file is written beside (in `.new`), brought to disk and then put in place whole. Whoever puts something in place holds
the folder's lock alone, whoever looks shares it, so that a file and what an index says of it are seen together.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cellyard.codemode.errors import StorageError
from cellyard.codemode.storage.files import FLAGS, Fresh, remove_stale, told
from cellyard_proto.beneath import Home

_log = logging.getLogger("cellyard.codemode")

LOCK_WITHIN_S = 30.0
"""Nobody holds a lock for longer than it takes to put a file in place; whoever does hangs."""
_LOCK, _NEW = ".lock", ".new"
_MAX_DEPTH = 256
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_MAY_NOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class Place:
    """Where a folder is, or will be, below the folder that the user named."""

    def __init__(self, root: Path, *names: str) -> None:
        self.path = root.joinpath(*names)
        self._root, self._names = root, names

    @contextmanager
    def reading(self) -> Iterator[Folder | None]:
        """The folder while nothing changes in it, None where there is none."""
        with told(self.path):
            folder = self._open()
            if folder is None:
                yield None
                return
            with folder, folder.locked(alone=False):
                yield folder

    @contextmanager
    def writing(self) -> Iterator[Folder]:
        """The folder, made where it is missing. Changes need its lock. What the caller raises is left as it is."""
        with told(self.path):
            folder = self._open(make=True)
        if folder is None:  # removed in the moment since it was made
            raise StorageError(f"{self.path} is not there any more", retryable=True)
        with folder:
            yield folder

    def _open(self, *, make: bool = False) -> Folder | None:
        if make:
            self._root.mkdir(parents=True, exist_ok=True)
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        home = Home(root)
        try:
            return Folder(home.open_folder(self._names), self.path)
        except FileNotFoundError:
            if not make:
                return None
            made = home.open_folder(self._names, make=True)
            _sync_above(home, self._names)
            return Folder(made, self.path)
        finally:
            os.close(root)


class Folder:
    """An open folder. Names are sequences: the last is a file's, those before are folders'."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self._descriptor = descriptor
        self._home = Home(descriptor)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @contextmanager
    def locked(self, *, alone: bool = True) -> Iterator[None]:
        """Holds the folder's lock, alone or with others who only look. Raises StorageError where it hangs."""
        with told(self.path):
            lock = self._open_lock(alone=alone)
        if lock is None:
            yield
            return
        try:
            with self._turn():
                _take(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, self.path)
            yield
        finally:
            os.close(lock)

    def look(self, names: Sequence[str]) -> os.stat_result | None:
        """What bears this name, a link itself and not what it leads to; None where nothing does."""
        try:
            with self._home.folder(names[:-1]) as above:
                return os.stat(names[-1], dir_fd=above, follow_symlinks=False)
        except OSError as failed:
            if failed.errno in _NOT_THERE:
                return None
            raise

    def open(self, names: Sequence[str]) -> int | None:
        """A descriptor of a file, for reading; None where there is none by this name, or a folder."""
        try:
            descriptor = self._home.open_file(names)
        except OSError as failed:
            if failed.errno not in _NOT_THERE:
                raise
            self._refuse_links(names)  # without openat2, one to a folder looks like a file
            return None
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            return None
        raise StorageError(f"{self.path.joinpath(*names)} is no file")

    def read(self, names: Sequence[str], limit: int) -> bytes | None:
        """A file's first `limit` bytes, None where there is none."""
        descriptor = self.open(names)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(min(limit, os.fstat(descriptor).st_size))

    def names(self) -> Iterator[os.DirEntry[str]]:
        """What is in the folder itself, by name, apart from what begins with a dot."""
        return _visible(self._descriptor)

    @contextmanager
    def left_out(self, entry: os.DirEntry[str]) -> Iterator[None]:
        """One file that cannot be read, or that is a link, is left out with a warning; the rest is there."""
        try:
            with told(self.path / entry.name):
                yield
        except StorageError as failed:
            _log.warning("left out: %s", failed)

    def files(self) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
        """All files in the folder and below, apart from what begins with a dot; links are passed over."""
        return _files(self._descriptor, ())

    @contextmanager
    def fresh(self) -> Iterator[Fresh]:
        """A new file that has no name here yet; it is gone at the end, unless it was put in place."""
        with told(self.path):
            new = self._home.open_folder((_NEW,), make=True)
        try:
            with told(self.path):
                file = Fresh(new)
            try:
                yield file
            finally:
                with told(self.path):
                    file.close()
        finally:
            os.close(new)

    def is_waiting(self, token: str) -> bool:
        """Whether a file that was to be put in place never was."""
        return self.look((_NEW, token)) is not None

    def put(self, file: Fresh, names: Sequence[str]) -> None:
        """Puts a fresh file in place, of another one if need be. The caller holds the lock alone."""
        with self._home.folder(names[:-1], make=True) as above:
            file.put(above, names[-1])
        _sync_above(self._home, names[:-1])

    def remove(self, names: Sequence[str]) -> None:
        """Removes a file and the folders that it leaves empty. The caller holds the lock alone."""
        with self._home.folder(names[:-1]) as above:
            os.unlink(names[-1], dir_fd=above)
            os.fsync(above)
        self.prune(names[:-1])

    def prune(self, names: Sequence[str]) -> bool:
        """Removes a folder and those above it as far as they are empty; False where it itself is not."""
        for count in range(len(names), 0, -1):
            try:
                with self._home.folder(names[: count - 1]) as above:
                    os.rmdir(names[count - 1], dir_fd=above)
            except OSError:
                return count < len(names)
        return True

    def is_empty(self, names: Sequence[str]) -> bool:
        """Whether nothing at all is in a folder, or it is gone."""
        try:
            with self._home.folder(names) as folder:
                return not os.listdir(folder)
        except FileNotFoundError:
            return True

    def set_aside(self, name: str) -> Path:
        """Renames a file to what no other has. The caller holds the lock alone."""
        other = f"{name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        os.rename(name, other, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        return self.path / other

    def sweep(self, spared: Iterable[str]) -> None:
        """Removes fresh files whose writers ended before they were put in place."""
        try:
            with self._home.folder((_NEW,)) as new:
                for token in set(os.listdir(new)) - set(spared):
                    remove_stale(new, token)
        except FileNotFoundError:
            pass

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Whoever waits for the lock is not overtaken: readers in a row would keep a writer out for ever."""
        try:
            _take(self._descriptor, fcntl.LOCK_EX, self.path)
        except OSError:  # a file system whose folders have no locks
            yield
            return
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _refuse_links(self, names: Sequence[str]) -> None:
        for count in range(1, len(names)):
            found = self.look(names[:count])
            if found is None:
                return
            if stat.S_ISLNK(found.st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _open_lock(self, *, alone: bool) -> int | None:
        try:
            return os.open(_LOCK, os.O_RDWR | os.O_CREAT | FLAGS, 0o666, dir_fd=self._descriptor)
        except OSError as failed:
            if alone or failed.errno not in _MAY_NOT_WRITE:
                raise
        try:  # who may only read has nothing to create, and can share what there is
            return os.open(_LOCK, os.O_RDONLY | FLAGS, dir_fd=self._descriptor)
        except OSError as failed:
            if failed.errno in (*_MAY_NOT_WRITE, errno.ENOENT):
                return None
            raise


def _sync_above(home: Home, names: Sequence[str]) -> None:
    """Brings to disk that these folders are there, each in the one above it."""
    for count in range(len(names)):
        with home.folder(names[:count]) as above:
            os.fsync(above)


def _take(lock: int, how: int, path: Path) -> None:
    """Asks again and again, because a process that has been stopped may hold it for ever."""
    deadline, pause = time.monotonic() + LOCK_WITHIN_S, 0.0005
    while True:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{path} has been locked by another program for {LOCK_WITHIN_S:.0f} s", retryable=True
                ) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.02)


def _visible(folder: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    yield from sorted(found, key=lambda entry: entry.name)


def _files(folder: int, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    for entry in _visible(folder):
        names = (*above, entry.name)
        if len(names) > _MAX_DEPTH:
            return
        if entry.is_dir(follow_symlinks=False):
            try:
                below = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | FLAGS, dir_fd=folder)
            except OSError as failed:
                if failed.errno in (*_NOT_THERE, errno.ELOOP):  # it was a folder a moment ago
                    continue
                raise
            try:
                yield from _files(below, names)
            finally:
                os.close(below)
        elif entry.is_file(follow_symlinks=False):
            yield names, os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
