"""What of a folder of packages goes into a running sandbox: each file, and whose it is. Touches files alone."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from cellyard_controller.environments.shelf import open_plain
from cellyard_controller.errors import EnvironmentFailed

_ABOUT = ".dist-info"
_CACHE = "__pycache__"
_PIECE = 256 * 1024
_LARGEST_RECORD = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file, by its path in the folder."""

    path: str
    size: int
    executable: bool
    owners: tuple[int, ...]
    """Whose it is, as places in Packed.packages. A file may be of several."""


@dataclass(frozen=True, slots=True)
class Packed:
    """All of a folder."""

    packages: tuple[tuple[str, str], ...]
    """Name and version of each, by name."""
    files: tuple[PackedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def pack(site: Path) -> Packed:
    """What is there. A file belongs to the packages whose RECORD names it, and bytecode to those of its source.

    Raises EnvironmentFailed for one that belongs to none: it could never be removed.
    """
    abouts = sorted(each.name for each in site.iterdir() if each.name.endswith(_ABOUT) and each.is_dir())
    names = [_name_and_version(about) for about in abouts]
    order = sorted(range(len(names)), key=names.__getitem__)
    owners: dict[str, set[int]] = {}
    for place, at in enumerate(order):
        for path in _recorded(site / abouts[at] / "RECORD"):
            owners.setdefault(path, set()).add(place)
    mine = {abouts[at]: place for place, at in enumerate(order)}
    return Packed(tuple(names[at] for at in order), tuple(_files(site, owners, mine)))


def stream(site: Path, packed: Packed, header: Callable[[PackedFile], bytes]) -> Iterator[bytes]:
    """All files, each behind its header, in pieces of about 256 KiB. Raises EnvironmentFailed, OSError."""
    piece = bytearray()
    for file in packed.files:
        piece += header(file)
        with open_plain(site / file.path) as opened:
            left = file.size
            while left:
                part = opened.read(min(_PIECE, left))
                if not part:
                    raise EnvironmentFailed(f"{file.path} is not as long as it was")
                left -= len(part)
                piece += part
                if len(piece) >= _PIECE:
                    yield bytes(piece)
                    piece.clear()
    if piece:
        yield bytes(piece)


def _files(site: Path, owners: Mapping[str, set[int]], mine: Mapping[str, int]) -> Iterator[PackedFile]:
    for parent, folders, names in os.walk(site):
        folders.sort()
        for name in sorted(names):
            path = os.path.relpath(os.path.join(parent, name), site)
            whose = owners.get(_source(path)) or ({mine[first]} if (first := path.split("/")[0]) in mine else None)
            if whose is None:
                raise EnvironmentFailed(
                    f"a package is damaged: {path[:200]!r} is in one, and no RECORD of a package names it"
                )
            about = os.lstat(os.path.join(parent, name))
            yield PackedFile(path, about.st_size, bool(about.st_mode & 0o100), tuple(sorted(whose)))


def _source(path: str) -> str:
    """What bytecode was made from; any other file itself."""
    parts = PurePosixPath(path).parts
    if len(parts) > 1 and parts[-2] == _CACHE and path.endswith(".pyc"):
        return "/".join((*parts[:-2], f"{parts[-1].split('.')[0]}.py"))
    return path


def _recorded(record: Path) -> Iterator[str]:
    """The paths in a RECORD; of one that cannot be read, none."""
    try:
        with open_plain(record) as opened:
            text = opened.read(_LARGEST_RECORD).decode()
        for row in csv.reader(text.splitlines()):
            if row:
                yield os.path.normpath(row[0])
    except (OSError, UnicodeDecodeError, csv.Error):
        return


def _name_and_version(about: str) -> tuple[str, str]:
    name, _, version = about.removesuffix(_ABOUT).rpartition("-")
    return canonicalize_name(name), version
