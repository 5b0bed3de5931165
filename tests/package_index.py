"""A package index of the tests' own on this machine's loopback: wheels that they write themselves, and what is none."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence

from tests.authority import Pair
from tests.file_server import FileServer


def wheel(
    name: str,
    version: str,
    files: dict[str, str],
    requires: Sequence[str] = (),
    record: Mapping[str, str] | None = None,
) -> bytes:
    """A wheel for every platform with these files. `record`: what its RECORD has, in place of the truth."""
    about = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    content = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = content if record is None else record
    lines = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in listed.items())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in {**content, f"{about}/RECORD": f"{lines}{about}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return packed.getvalue()


def sources(name: str, version: str, files: dict[str, str]) -> bytes:
    """An archive of sources with these files."""
    packed = io.BytesIO()
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in {"PKG-INFO": about, **files}.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class PackageIndex(FileServer):
    """Serves what is added to it."""

    def __init__(self, tls: Pair | None = None) -> None:
        self._files: dict[str, dict[str, bytes]] = {}
        super().__init__(tls)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple/"

    def add(self, name: str, version: str, files: dict[str, str] | None = None, requires: Sequence[str] = ()) -> None:
        """A wheel; without files, of one module that knows its version."""
        given = files if files is not None else {f"{name}.py": f"VERSION = {version!r}\n"}
        self.add_file(name, f"{name}-{version}-py3-none-any.whl", wheel(name, version, given, requires))

    def add_sources(self, name: str, version: str, files: dict[str, str]) -> None:
        """A package that has no wheel."""
        self.add_file(name, f"{name}-{version}.tar.gz", sources(name, version, files))

    def add_file(self, name: str, file: str, content: bytes) -> None:
        """Whatever it may be."""
        self._files.setdefault(name.replace("_", "-"), {})[file] = content

    def content(self, path: str) -> bytes | None:
        parts = path.strip("/").split("/")
        files = self._files.get(parts[1]) if len(parts) > 1 else None
        if files is None:
            return None
        if len(parts) == 2:
            return ("<!DOCTYPE html>" + "".join(f'<a href="{name}">{name}</a>' for name in files)).encode()
        return files.get(parts[2])
