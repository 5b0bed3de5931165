"""A conda channel of the tests' own: packages that they write themselves, served from memory or from a folder."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.authority import Pair
from tests.file_server import FileServer

PLACEHOLDER = "/" + "placehold_" * 24
"""What stands in files where the folder of the environment is to stand."""


@dataclass(frozen=True)
class File:
    """One file of a package."""

    content: bytes
    mode: int = 0o644
    prefix: str = ""
    """"text" where PLACEHOLDER stands in it."""


@dataclass(frozen=True)
class Link:
    """A symbolic link of a package."""

    target: str


Content = Mapping[str, "str | File | Link"]


def tar(members: Mapping[str, File | Link]) -> bytes:
    """A tar with these members, by name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, each in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(each, Link):
                entry.type, entry.linkname = tarfile.SYMTYPE, each.target
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(each.content), each.mode
                archive.addfile(entry, io.BytesIO(each.content))
    return packed.getvalue()


def zstd(content: bytes) -> bytes:
    """A frame as RFC 8878 has it whose blocks are not compressed."""
    frame = bytearray(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", len(content)))
    pieces = [content[at : at + 0x10000] for at in range(0, len(content), 0x10000)] or [b""]
    for number, piece in enumerate(pieces):
        frame += struct.pack("<I", len(piece) << 3 | (number == len(pieces) - 1))[:3] + piece
    return bytes(frame)


@dataclass
class Package:
    """What a package says of itself, and holds."""

    name: str
    version: str
    content: dict[str, File | Link]
    depends: Sequence[str] = ()
    noarch: bool = False
    """Of Python modules for every version: `site-packages/...`."""
    info: dict[str, str] = field(default_factory=dict)
    """More files of its info folder."""

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-0"

    def index(self, subdir: str) -> dict[str, Any]:
        """As repodata.json has it, without what is said of the archive."""
        about = {
            "name": self.name,
            "version": self.version,
            "build": "0",
            "build_number": 0,
            "depends": list(self.depends),
            "subdir": subdir,
        }
        return about | ({"noarch": "python"} if self.noarch else {})

    def _info(self, subdir: str) -> dict[str, File | Link]:
        paths = []
        for name, each in self.content.items():
            about: dict[str, Any] = {"_path": name, "path_type": "softlink" if isinstance(each, Link) else "hardlink"}
            if isinstance(each, File):
                about |= {"sha256": hashlib.sha256(each.content).hexdigest(), "size_in_bytes": len(each.content)}
                if each.prefix:
                    about |= {"prefix_placeholder": PLACEHOLDER, "file_mode": each.prefix}
            paths.append(about)
        files = {
            "info/index.json": json.dumps(self.index(subdir)),
            "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
            **self.info,
        }
        if self.noarch:
            files["info/link.json"] = json.dumps({"noarch": {"type": "python"}, "package_metadata_version": 1})
        return {name: File(text.encode()) for name, text in files.items()}

    def tar_bz2(self, subdir: str) -> bytes:
        """The older format."""
        return bz2.compress(tar({**self._info(subdir), **self.content}), 1)

    def conda(self, subdir: str) -> bytes:
        """The newer format."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
            archive.writestr(f"pkg-{self.stem}.tar.zst", zstd(tar(self.content)))
            archive.writestr(f"info-{self.stem}.tar.zst", zstd(tar(self._info(subdir))))
        return packed.getvalue()


class CondaChannel(FileServer):
    """Serves what is added to it."""

    def __init__(self, name: str = "local", subdir: str = "linux-64", tls: Pair | None = None) -> None:
        self.name, self.subdir = name, subdir
        self._files: dict[str, bytes] = {}
        self._packages: dict[str, dict[str, Any]] = {subdir: {}, "noarch": {}}
        super().__init__(tls)

    @property
    def url(self) -> str:
        scheme = "https" if self._tls is not None else "http"
        return f"{scheme}://127.0.0.1:{self.port}/{self.name}"

    def add(
        self,
        name: str,
        version: str,
        content: Content | None = None,
        depends: Sequence[str] = (),
        *,
        noarch: bool = True,
        newer: bool = False,
    ) -> None:
        """A package; without content, of one Python module that knows its version."""
        given = content if content is not None else {f"site-packages/{name}.py": f"VERSION = {version!r}\n"}
        files = {path: File(each.encode()) if isinstance(each, str) else each for path, each in given.items()}
        package = Package(name, version, files, depends, noarch)
        subdir = "noarch" if noarch else self.subdir
        archive = package.conda(subdir) if newer else package.tar_bz2(subdir)
        self.add_archive(package, archive, ".conda" if newer else ".tar.bz2")

    def add_archive(self, package: Package, archive: bytes, ending: str = ".tar.bz2", **said: Any) -> None:
        """Whatever it may be; `said`: what the index says of it, in place of what is so."""
        subdir = "noarch" if package.noarch else self.subdir
        about = package.index(subdir) | {
            "sha256": hashlib.sha256(archive).hexdigest(),
            "md5": hashlib.md5(archive, usedforsecurity=False).hexdigest(),
            "size": len(archive),
        }
        self._packages[subdir][f"{package.stem}{ending}"] = about | said
        self._files[f"/{self.name}/{subdir}/{package.stem}{ending}"] = archive

    def repodata(self, subdir: str) -> bytes:
        """What the channel has."""
        packages = self._packages[subdir]
        return json.dumps(
            {
                "info": {"subdir": subdir},
                "packages": {name: about for name, about in packages.items() if name.endswith(".tar.bz2")},
                "packages.conda": {name: about for name, about in packages.items() if name.endswith(".conda")},
                "repodata_version": 1,
            }
        ).encode()

    def write(self, folder: Path) -> str:
        """The same as files; returns the URL."""
        for path, content in self._files.items():
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for subdir in self._packages:
            target = folder / self.name / subdir / "repodata.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.repodata(subdir))
        return (folder / self.name).as_uri()

    def content(self, path: str) -> bytes | None:
        for subdir in self._packages:
            if path == f"/{self.name}/{subdir}/repodata.json":
                return self.repodata(subdir)
        return self._files.get(path)
