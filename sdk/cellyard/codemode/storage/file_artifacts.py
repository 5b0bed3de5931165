"""Artifacts as files, with an index for what a file cannot say of itself."""

from __future__ import annotations

import codecs
import json
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from cellyard.codemode.errors import ArtifactNotFoundError, StorageError
from cellyard.codemode.storage import names
from cellyard.codemode.storage.files import PIECE, Pieces, told
from cellyard.codemode.storage.folders import Folder, Place
from cellyard.codemode.storage.index import Entry, Index
from cellyard.codemode.storage.protocols import ArtifactInfo, Content
from cellyard_proto.codemode.artifacts import TYPES

_log = logging.getLogger("cellyard.codemode")

_MAX_JSON = 64 << 20
"""Bytes of a file without an entry that is parsed to find out whether it is JSON."""
_MAX_FOUND = 10_000


class FileArtifacts:
    """Artifacts below a folder. A file that nobody told the index of is one too: its type is what it reads as."""

    _INDEX = ".artifacts.json"

    def __init__(self, place: Place) -> None:
        self._place = place
        self._found: dict[tuple[int, int, int, int], str] = {}  # types by what a file's status says of it

    def list(self) -> list[ArtifactInfo]:
        with self._place.reading() as folder:
            if folder is None:
                return []
            index = Index(folder, self._INDEX)
            found = [("/".join(parts), status) for parts, status in folder.files()]
            known = [(name, status, index.get(name)) for name, status in found if _is_name(name)]
        infos = []
        for name, status, entry in known:
            if _type(entry) is not None:
                infos.append(self._info(name, status, entry, ""))
                continue
            try:
                info = self.info(name)  # reads the file, without the lock that writers wait for
            except StorageError as failed:
                _log.warning("left out: %s", failed)
                continue
            if info is not None:
                infos.append(info)
        return sorted(infos, key=lambda info: info.name)

    def info(self, name: str) -> ArtifactInfo | None:
        opened = self._open(name)
        if opened is None:
            return None
        os.close(opened[1])
        return opened[0]

    def write(
        self, name: str, type_: str, pieces: Iterable[bytes], description: str, metadata: Mapping[str, Any]
    ) -> ArtifactInfo:
        parts = tuple(names.artifact(name).split("/"))
        with self._place.writing() as folder:
            with told(self._place.path):
                self._refuse(folder, name)  # before all of it has come; once more below
            with folder.fresh() as file:
                for piece in pieces:
                    with told(self._place.path):
                        file.write(piece)
                created = datetime.now(UTC)
                entry = {
                    "description": description,
                    "created_at": created.isoformat(),
                    "metadata": {**metadata, "_data_type": type_},
                }
                with told(self._place.path):
                    file.sync()
                    with folder.locked():
                        self._refuse(folder, name, make_room=True)
                        try:
                            Index(folder, self._INDEX).put(file, name, parts, entry)
                        except BaseException:
                            folder.prune(parts[:-1])
                            raise
                size = file.size
        path = str(self._place.path.joinpath(*parts))
        return ArtifactInfo(name, path, description, dict(metadata), created, type_, size)

    def read(self, name: str) -> tuple[ArtifactInfo, Content]:
        opened = self._open(name)
        if opened is None:
            raise ArtifactNotFoundError(f"Artifact {name!r} not found")
        return opened[0], Pieces(opened[1], self._place.path / name)

    def remove(self, name: str) -> bool:
        parts = tuple(names.artifact(name).split("/"))
        with self._place.reading() as there:
            if there is None:
                return False
        with self._place.writing() as folder, told(self._place.path), folder.locked():
            descriptor = folder.open(parts)
            if descriptor is None:
                return False
            os.close(descriptor)
            Index(folder, self._INDEX).remove(name, parts)
        return True

    def _open(self, name: str) -> tuple[ArtifactInfo, int] | None:
        """What is known of an artifact, and its file."""
        parts = tuple(names.artifact(name).split("/"))
        with self._place.reading() as folder:
            descriptor = None if folder is None else folder.open(parts)
            if folder is None or descriptor is None:
                return None
            try:
                entry = Index(folder, self._INDEX).get(name)
            except BaseException:
                os.close(descriptor)
                raise
        try:
            with told(self._place.path / name):
                status = os.fstat(descriptor)
                type_ = _type(entry) or self._type_by_content(name, descriptor, status)
                return self._info(name, status, entry, type_), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def _info(self, name: str, status: os.stat_result, entry: Entry, type_: str) -> ArtifactInfo:
        metadata, description = entry.get("metadata"), entry.get("description")
        return ArtifactInfo(
            name=name,
            path=str(self._place.path / name),
            description=description if isinstance(description, str) else "",
            metadata={key: value for key, value in metadata.items() if not key.startswith("_")}
            if isinstance(metadata, dict)
            else {},
            created_at=_created(entry.get("created_at"), status),
            type=_type(entry) or type_,
            size=status.st_size,
        )

    def _refuse(self, folder: Folder, name: str, *, make_room: bool = False) -> None:
        """Raises ArtifactNameError where the name is a folder's, or lies below an artifact; StorageError at a link."""
        parts = tuple(name.split("/"))
        for count in range(1, len(parts) + 1):
            found = folder.look(parts[:count])
            if found is None:
                return
            last = count == len(parts)
            if stat.S_ISDIR(found.st_mode):
                # An empty folder that somebody left is none of artifacts.
                if last and not (folder.prune(parts) if make_room else folder.is_empty(parts)):
                    raise names.is_folder(name)
            elif stat.S_ISREG(found.st_mode):
                if not last:
                    raise names.is_artifact("/".join(parts[:count]), name)
            else:
                what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "neither a file nor a folder"
                raise StorageError(f"{self._place.path.joinpath(*parts[:count])} is {what}, and stays as it is")

    def _type_by_content(self, name: str, descriptor: int, status: os.stat_result) -> str:
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._found:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            self._found[key] = _read_type(name, descriptor, status.st_size)
        return self._found[key]


def _is_name(name: str) -> bool:
    try:
        names.artifact(name)
    except ValueError:
        _log.debug("%r is no artifact's name, and left out", name)
        return False
    return True


def _type(entry: Entry) -> str | None:
    metadata = entry.get("metadata")
    type_ = metadata.get("_data_type") if isinstance(metadata, dict) else None
    return type_ if type_ in TYPES else None


def _created(said: object, status: os.stat_result) -> datetime:
    try:
        created = datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        created = None
    if created is None:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    return created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC)


def _read_type(name: str, descriptor: int, size: int) -> str:
    """JSON where the name says so and it is; text where it is UTF-8; else bytes."""
    if name.endswith(".json") and size <= _MAX_JSON:
        try:
            json.loads(os.pread(descriptor, size, 0))
        except (ValueError, RecursionError):
            pass
        else:
            return "json"
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        while piece := os.pread(descriptor, PIECE, offset):
            decoder.decode(piece)
            offset += len(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "bytes"
    return "text"
