"""Files in and out of the home: written whole or not at all, read as long as they were when opened, listed, removed.

Hostile code may have prepared the home and goes on changing it: see beneath.py. Only plain files are read, and
nothing but plain files is replaced.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence

from cellyard_proto import amounts
from cellyard_proto.beneath import Home
from cellyard_proto.flows import CHUNK, cost, split_path
from cellyard_proto.v1 import files_pb2, link_pb2
from cellyard_sandbox.flows import FlowRefused, Work, because, refused

MAX_ENTRIES = 100_000
"""Entries that a listing has at most: a folder that grows meanwhile must come to an end."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = 1024  # bytes that one entry takes at most
_DONE = link_pb2.FlowEnded()
_KINDS = {
    stat.S_IFREG: files_pb2.FILE_KIND_FILE,
    stat.S_IFDIR: files_pb2.FILE_KIND_FOLDER,
    stat.S_IFLNK: files_pb2.FILE_KIND_LINK,
}


class Writing(Work):
    """A file on its way in: beside its place, under a name of its own, and moved there when it is whole."""

    def __init__(self, home: Home, order: link_pb2.WriteFile) -> None:
        names = _names(order.path)
        self._path, self._name, self._left = order.path, names[-1], order.size
        self._temporary = f".cellyard-{secrets.token_hex(8)}"
        self._file = self._folder = -1
        try:
            self._folder = home.open_folder(names[:-1], make=True)
            self._check_place()
            self._file = os.open(self._temporary, _NEW_FILE, 0o644, dir_fd=self._folder)
            self._finish_if_whole()
        except OSError as failed:
            refusal = self._because(failed)
            self.close()
            raise refusal from None
        except FlowRefused:
            self.close()
            raise

    def take(self, content: bytes) -> int:
        """See Work."""
        if len(content) > self._left:
            raise refused(f"{self._path!r}: more content came than was announced")
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            self._left -= len(content)
            self._finish_if_whole()
        except OSError as failed:
            raise self._because(failed) from None
        return cost(content)

    def close(self) -> None:
        """See Work."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            _unlink(self._temporary, self._folder)
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _finish_if_whole(self) -> None:
        if self._left:
            return
        self._check_place()
        os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.close(self._file)
        self._file = -1
        self.ended = _DONE

    def _because(self, failed: OSError) -> FlowRefused:
        if failed.errno != errno.ENOSPC or self._folder < 0:
            return because(repr(self._path), failed)
        disk = os.fstatvfs(self._folder)
        free, limit = amounts.size(disk.f_bavail * disk.f_frsize), amounts.size(disk.f_blocks * disk.f_frsize)
        message = (
            f"{self._path!r}: the home is full: {free} of {limit} and {disk.f_ffree} of {disk.f_files} files are free"
        )
        return FlowRefused(link_pb2.FLOW_ERROR_USED_UP, message)

    def _check_place(self) -> None:
        """Said before all content has come, too. What stands there a moment later is replaced, never followed."""
        try:
            mode = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise refused(f"{self._path!r} is {_what(mode)}, which is not replaced")


class Reading(Work):
    """A file on its way out: as many bytes as it had when it was opened, whatever becomes of it meanwhile."""

    def __init__(self, home: Home, order: link_pb2.ReadFile) -> None:
        self._path = order.path
        try:
            self._file = home.open_file(_names(order.path))
        except OSError as failed:
            raise because(repr(order.path), failed) from None
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise refused(f"{order.path!r} is {_what(found.st_mode)}")
        if found.st_size > order.max_bytes:
            self.close()
            raise refused(f"{order.path!r} has {found.st_size} bytes; at most {order.max_bytes} can be downloaded")
        self._left = found.st_size
        self.opened = link_pb2.FlowOpened(size=found.st_size)
        self.ended = _DONE if not self._left else None

    def give(self, room: int) -> link_pb2.FlowFrame | None:
        """See Work."""
        if not self._left:
            return None
        try:
            content = os.read(self._file, min(room, self._left))
        except OSError as failed:
            raise because(repr(self._path), failed) from None
        if not content:
            raise refused(f"{self._path!r} was cut while it was read")
        self._left -= len(content)
        if not self._left:
            self.ended = _DONE
        return link_pb2.FlowFrame(content=content)

    def close(self) -> None:
        """See Work."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Listing(Work):
    """What lies in a folder, some entries at a time."""

    def __init__(self, home: Home, order: link_pb2.ListFolder) -> None:
        self._path = order.path
        self._folder = -1
        try:
            self._folder = home.open_folder(_names(order.path, home_too=True))
            self._entries = os.scandir(self._folder)
        except OSError as failed:
            self.close()
            raise because(repr(order.path or "."), failed) from None
        self._count = 0

    def give(self, room: int) -> link_pb2.FlowFrame | None:
        """See Work."""
        if room < CHUNK or self.ended is not None:
            return None
        found = files_pb2.FileEntries()
        for _ in range(CHUNK // _ENTRY):
            try:
                entry = next(self._entries, None)
            except OSError as failed:
                raise because(repr(self._path or "."), failed) from None
            if entry is None:
                self.ended = _DONE
                break
            self._count += 1
            if self._count > MAX_ENTRIES:
                raise refused(f"{self._path or '.'!r} has more than {MAX_ENTRIES} entries")
            _describe(found, entry)
        return link_pb2.FlowFrame(content=found.SerializeToString()) if found.entries else None

    def close(self) -> None:
        """See Work."""
        if self._folder >= 0:
            if hasattr(self, "_entries"):
                self._entries.close()
            os.close(self._folder)
            self._folder = -1


class Removing(Work):
    """A file, a link or an empty folder, removed at once."""

    def __init__(self, home: Home, order: link_pb2.RemovePath) -> None:
        names = _names(order.path)
        try:
            with home.folder(names[:-1]) as folder:
                try:
                    os.unlink(names[-1], dir_fd=folder)
                except OSError as failed:
                    if failed.errno not in (errno.EISDIR, errno.EPERM):
                        raise
                    os.rmdir(names[-1], dir_fd=folder)
        except OSError as failed:
            raise because(repr(order.path), failed) from None
        self.ended = _DONE


def _names(path: str, *, home_too: bool = False) -> Sequence[str]:
    try:
        names = split_path(path)
    except ValueError as bad:
        raise refused(f"{path[:200]!r}: {bad}") from None
    if not names and not home_too:
        raise refused(f"{path[:200]!r} names no file")
    return names


def _what(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _describe(found: files_pb2.FileEntries, entry: os.DirEntry[str]) -> None:
    try:
        about = entry.stat(follow_symlinks=False)
    except OSError:
        return  # gone meanwhile
    kind = _KINDS.get(stat.S_IFMT(about.st_mode), files_pb2.FILE_KIND_OTHER)
    found.entries.add(
        name=os.fsencode(entry.name).decode("utf-8", "replace"),
        kind=kind,
        size=about.st_size if kind == files_pb2.FILE_KIND_FILE else 0,
        modified_at=about.st_mtime,
    )


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass  # whoever removed it has done what was wanted
