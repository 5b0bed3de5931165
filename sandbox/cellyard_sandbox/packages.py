"""Packages that come into a running sandbox: into a folder of their own, in which every Python here looks last.

Looked in last, so that nothing which a kernel has loaded, or may load, is replaced by what comes. The folder is there
before any kernel is: a running one sees at its next import what came, and so does every program that a cell starts.
Code in the sandbox may do to it as it likes: every step goes through an opened folder (beneath.py).
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cellyard_proto import amounts
from cellyard_proto.beneath import Home
from cellyard_proto.flows import cost, split_path
from cellyard_proto.v1 import link_pb2
from cellyard_sandbox import files
from cellyard_sandbox.flows import FlowRefused, Work, because, refused

FOLDER = ".cache/cellyard/packages"
"""In containers environment.py has every Python look there, below the home; elsewhere `start_folder` does."""
MAX_FILES = 100_000
MAX_PACKAGES = 1000
"""Files that come at a time, and packages of one sandbox."""
_MAX_HEADER = 64 * 1024
_LENGTH = struct.Struct(">I")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SITE = FOLDER.split("/")
_ABOVE = _SITE[:-1]
_TOLD_AT_A_TIME = 100
_START = [*_ABOVE, "start"]
_START_PROGRAM = """import importlib.machinery, site, sys
site.addsitedir({place!r})
mine = {folder!r}
others = [entry for entry in sys.path if entry != mine]
found = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
if found is not None and found.loader is not None:
    found.loader.exec_module(sys.modules[__name__])
"""


@dataclass(frozen=True, slots=True)
class _Brought:
    name: str
    version: str
    request_id: str


class Packages:
    """What was brought and not removed. Belongs to the event loop's thread."""

    def __init__(self, home: Home, root: str) -> None:
        """`home`: the opened folder below which they come in; `root`: its path."""
        self.home, self._root = home, root
        self._packages: dict[str, _Brought] = {}
        self._owners: dict[str, set[str]] = {}
        self.bringing = False
        """Something is on its way in."""

    def prepare(self) -> None:
        """Makes the folder, before the first kernel looks for it. Raises OSError."""
        with self.home.folder(_SITE, make=True):
            pass

    def start_folder(self) -> str:
        """Makes a folder by which, in PYTHONPATH, programs outside of containers look for packages here, last of all.

        It holds nothing but what Python runs at its start. Raises OSError.
        """
        folder = os.path.join(self._root, *_START)
        program = _START_PROGRAM.format(place=os.path.join(self._root, *_SITE), folder=folder)
        with self.home.folder(_START, make=True) as start:
            file = os.open("sitecustomize.py", _NEW_FILE, 0o644, dir_fd=start)
        with open(file, "w") as opened:
            opened.write(program)
        return folder

    def check(self, order: link_pb2.BringPackages) -> None:
        """Raises FlowRefused where these cannot come."""
        if self.bringing:
            raise refused("other packages are on their way into this sandbox")
        names = {package.name for package in order.packages}
        if len(names) != len(order.packages) or not 0 <= order.files <= MAX_FILES or order.bytes < 0:
            raise refused("no such packages can be")
        if len(self._packages.keys() | names) > MAX_PACKAGES:
            raise FlowRefused(link_pb2.FLOW_ERROR_USED_UP, f"more than {MAX_PACKAGES} packages in one sandbox")

    def came(self, order: link_pb2.BringPackages, owners: dict[str, list[str]]) -> None:
        """They are in their places. `owners`: by path, the names of those that have a file there."""
        for package in order.packages:
            self._packages[package.name] = _Brought(package.name, package.version, order.request_id)
        for path, names in owners.items():
            self._owners.setdefault(path, set()).update(names)

    def told(self) -> list[link_pb2.BroughtPackages]:
        """What is there, by name."""
        return _told(self._packages[name] for name in sorted(self._packages))

    def remove(self, names: Iterable[str]) -> list[link_pb2.BroughtPackages]:
        """Removes those that are there, and says which. A file that another one has too, stays."""
        gone = [self._packages.pop(name) for name in sorted(set(names)) if name in self._packages]
        wanted = {package.name for package in gone}
        left = []
        for path, owners in self._owners.items():
            if owners & wanted:
                owners -= wanted
                if not owners:
                    left.append(path)
        for path in left:
            del self._owners[path]
            self._discard(path)
        return _told(gone)

    def _discard(self, path: str) -> None:
        """A file, its bytecode, and folders that have nothing left."""
        names = [*_SITE, *path.split("/")]
        try:
            with self.home.folder(names[:-1]) as folder:
                os.unlink(names[-1], dir_fd=folder)
                _touch(folder)
                if names[-1].endswith(".py"):
                    self._discard_bytecode(names[:-1], names[-1].removesuffix("py"))
        except OSError:
            return  # code in the sandbox was faster, or has put something else there
        for end in range(len(names) - 1, len(_SITE), -1):
            try:
                with self.home.folder(names[: end - 1]) as above:
                    os.rmdir(names[end - 1], dir_fd=above)
                    _touch(above)
            except OSError:
                return

    def _discard_bytecode(self, folder: Sequence[str], prefix: str) -> None:
        try:
            with self.home.folder([*folder, "__pycache__"]) as cache:
                for name in os.listdir(cache):
                    if name.startswith(prefix):
                        os.unlink(name, dir_fd=cache)
            with self.home.folder(folder) as above:
                os.rmdir("__pycache__", dir_fd=above)
        except OSError:
            pass  # there is none, or more in it


class Bringing(Work):
    """Packages on their way in: beside their place, and put there when all of it has come."""

    def __init__(self, packages: Packages, order: link_pb2.BringPackages) -> None:
        packages.check(order)
        self._packages, self._home, self._order = packages, packages.home, order
        self._files_left, self._bytes_left = order.files, order.bytes
        self._header = bytearray()
        self._file = -1
        self._left = 0
        self._owners: dict[str, list[str]] = {}
        self._draft = [*_ABOVE, f".coming-{secrets.token_hex(8)}"]
        packages.bringing = True
        try:
            packages.prepare()  # code in the sandbox may have removed it
            with self._home.folder(self._draft, make=True) as folder:
                _check_room(folder, order)
            self._finish_if_whole()
        except OSError as failed:
            self.close()
            raise self._because(failed) from None
        except FlowRefused:
            self.close()
            raise

    def take(self, content: bytes) -> int:
        """See Work."""
        rest = memoryview(content)
        try:
            while rest:
                if self.ended is not None:
                    raise refused("more content came than was announced")
                rest = self._write(rest) if self._file >= 0 else self._read_header(rest)
        except OSError as failed:
            raise self._because(failed) from None
        return cost(content)

    def close(self) -> None:
        """See Work."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._draft:
            self._packages.bringing = False
            _remove_tree(self._home, self._draft)
            self._draft = []

    def _read_header(self, rest: memoryview) -> memoryview:
        wanted = _LENGTH.size - len(self._header)
        if wanted <= 0:
            wanted = _LENGTH.size + _LENGTH.unpack_from(self._header)[0] - len(self._header)
        self._header += rest[:wanted]
        rest = rest[wanted:]
        if len(self._header) >= _LENGTH.size:
            size = _LENGTH.unpack_from(self._header)[0]
            if size > _MAX_HEADER:
                raise refused("a file of packages with a header that is none")
            if len(self._header) == _LENGTH.size + size:
                self._begin_file(bytes(self._header[_LENGTH.size :]))
                self._header.clear()
        return rest

    def _begin_file(self, header: bytes) -> None:
        try:
            file = link_pb2.BroughtFile.FromString(header)
            names = split_path(file.path)
            owners = [self._order.packages[at].name for at in file.owners]
        except (DecodeError, ValueError, IndexError) as bad:
            raise refused(f"a file of packages that is none: {bad}") from None
        path = "/".join(names)
        self._bytes_left -= file.size
        if not names or not owners or path in self._owners or file.size < 0 or self._bytes_left < 0:
            raise refused(f"{path[:200]!r}: no file of these packages")
        self._owners[path] = owners
        with self._home.folder([*self._draft, *names[:-1]], make=True) as folder:
            self._file = os.open(names[-1], _NEW_FILE, 0o755 if file.executable else 0o644, dir_fd=folder)
        self._left = file.size
        self._end_file_if_whole()

    def _write(self, rest: memoryview) -> memoryview:
        written = os.write(self._file, rest[: self._left])
        self._left -= written
        self._end_file_if_whole()
        return rest[written:]

    def _end_file_if_whole(self) -> None:
        if not self._left:
            os.close(self._file)
            self._file = -1
            self._files_left -= 1
            self._finish_if_whole()

    def _finish_if_whole(self) -> None:
        if self._files_left:
            return
        placed: list[Sequence[str]] = []
        # Those that the controller does not see any more, because code here has damaged or removed them.
        self._packages.remove(package.name for package in self._order.packages)
        try:
            _place(self._home, self._draft, _SITE, placed)
        except (OSError, FlowRefused):
            for names in reversed(placed):
                _remove_tree(self._home, names)
            raise
        self._packages.came(self._order, self._owners)
        self.close()
        self.ended = link_pb2.FlowEnded()

    def _because(self, failed: OSError) -> FlowRefused:
        return because("the packages cannot be put into the sandbox", failed)


class Telling(Work):
    """Says something that is known at once, a message at a time."""

    def __init__(self, messages: Sequence[link_pb2.BroughtPackages]) -> None:
        self._frames = [link_pb2.FlowFrame(content=message.SerializeToString()) for message in reversed(messages)]
        self._end_if_told()

    def give(self, room: int) -> link_pb2.FlowFrame | None:
        """See Work."""
        if not self._frames or len(self._frames[-1].content) > room:
            return None
        frame = self._frames.pop()
        self._end_if_told()
        return frame

    def _end_if_told(self) -> None:
        if not self._frames:
            self.ended = link_pb2.FlowEnded()


def _told(packages: Iterable[_Brought]) -> list[link_pb2.BroughtPackages]:
    found = [
        link_pb2.BroughtPackage(name=each.name, version=each.version, request_id=each.request_id) for each in packages
    ]
    return [
        link_pb2.BroughtPackages(packages=found[at : at + _TOLD_AT_A_TIME])
        for at in range(0, len(found), _TOLD_AT_A_TIME)
    ]


def _check_room(folder: int, order: link_pb2.BringPackages) -> None:
    """Said before anything has come."""
    disk = os.fstatvfs(folder)
    free, limit = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if order.bytes > free or (disk.f_files and order.files > disk.f_ffree):
        message = (
            f"the packages take {amounts.size(order.bytes)} in {order.files} files; of "
            f"{amounts.size(limit)} and {disk.f_files} files {amounts.size(free)} and {disk.f_ffree} are free"
        )
        raise FlowRefused(link_pb2.FLOW_ERROR_USED_UP, message)


def _place(home: Home, source: Sequence[str], target: Sequence[str], placed: list[Sequence[str]]) -> None:
    """Moves what lies in one folder to another. What is there already, stays; notes what was moved."""
    with home.folder(source) as old, home.folder(target) as new:
        # What says that a package is there comes last.
        for name in sorted(os.listdir(old), key=lambda name: (name.endswith(".dist-info"), name)):
            ours = stat.S_ISDIR(os.stat(name, dir_fd=old, follow_symlinks=False).st_mode)
            theirs = _mode(name, new)
            if theirs is None:
                os.rename(name, name, src_dir_fd=old, dst_dir_fd=new)
                placed.append([*target, name])
            elif ours and stat.S_ISDIR(theirs):
                _place(home, [*source, name], [*target, name], placed)
            elif ours or not stat.S_ISREG(theirs):
                raise refused(f"{name[:200]!r} stands in the way, in the folder of packages")
        _touch(new)


def _mode(name: str, folder: int) -> int | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _touch(folder: int) -> None:
    """Python looks into a folder anew once its time has changed, and two changes may fall into one tick."""
    os.utime(folder, ns=(time.time_ns(), time.time_ns()))


def _remove_tree(home: Home, names: Sequence[str]) -> None:
    try:
        with home.folder(names[:-1]) as above:
            if stat.S_ISDIR(os.stat(names[-1], dir_fd=above, follow_symlinks=False).st_mode):
                with home.folder(names) as folder:
                    files.empty_open(folder)
                os.rmdir(names[-1], dir_fd=above)
            else:
                os.unlink(names[-1], dir_fd=above)
    except OSError:
        pass  # code in the sandbox was faster
