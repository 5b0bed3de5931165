"""Artifacts in Redis.

A small content is a value of its own. A large one is a hash of pieces (`PREFIX:artifact-pieces:ID`), because Redis'
values have a limit and because nobody should hold it whole; `PREFIX:artifact-pieces` says which name has which. Pieces
are sent under a new id and expire unless the writing comes to its end, where one script exchanges old and new. Old
pieces stay for a while, for whoever is reading them.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Generator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from cellyard.codemode.errors import ArtifactNotFoundError, StorageError
from cellyard.codemode.storage import names
from cellyard.codemode.storage.protocols import ArtifactInfo, Content
from cellyard.codemode.storage.redis_link import Link, Word
from cellyard_proto.codemode.artifacts import TYPES

_log = logging.getLogger("cellyard.codemode")

WHOLE = 4 << 20
"""Bytes up to which a content is one value."""
PIECE = 1 << 20
UNFINISHED_S = 3600
"""Seconds for which pieces stay without another one coming."""
READ_ON_S = 120
"""Seconds for which pieces that were replaced stay without being read."""

_SAVE = """
local index, content, by_name, new = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, entry, id, value, count, pieces, stay = unpack(ARGV)
if redis.call('HEXISTS', index, name) == 0 then
  local slash = string.find(name, '/', 1, true)
  while slash do
    local above = string.sub(name, 1, slash - 1)
    if redis.call('HEXISTS', index, above) == 1 then return {'artifact', above} end
    slash = string.find(name, '/', slash + 1, true)
  end
  local below = name .. '/'
  for _, other in ipairs(redis.call('HKEYS', index)) do
    if string.sub(other, 1, #below) == below then return {'folder', name} end
  end
end
local old = redis.call('HGET', by_name, name)
if id == '' then
  redis.call('SET', content, value)
  redis.call('HDEL', by_name, name)
else
  if redis.call('HLEN', new) ~= tonumber(count) then return {'gone'} end
  redis.call('PERSIST', new)
  redis.call('HSET', by_name, name, id)
  redis.call('DEL', content)
end
redis.call('HSET', index, name, entry)
if old and old ~= id then redis.call('EXPIRE', pieces .. old, stay) end
return {'saved'}
"""
_LOAD = """
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return {} end
local content = redis.call('GET', KEYS[2])
if content then return {entry, 'whole', content} end
local id = redis.call('HGET', KEYS[3], ARGV[1])
if id then return {entry, 'pieces', id, redis.call('HLEN', ARGV[2] .. id)} end
return {entry, 'gone'}
"""
_REMOVE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2])
local id = redis.call('HGET', KEYS[3], ARGV[1])
if id then
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('EXPIRE', ARGV[2] .. id, ARGV[3])
end
return 1
"""
_SEND = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('EXPIRE', KEYS[1], ARGV[3])
"""
_NEXT = """
local piece = redis.call('HGET', KEYS[1], ARGV[1])
if piece and redis.call('TTL', KEYS[1]) >= 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return piece
"""


class RedisArtifacts:
    """Artifacts below a prefix."""

    def __init__(self, link: Link, scope: str) -> None:
        self._link = link
        self._contents = f"{scope}:artifacts:"
        self._index = f"{scope}:artifacts:__index__".encode()
        self._by_name = f"{scope}:artifact-pieces".encode()
        self._pieces = f"{scope}:artifact-pieces:".encode()

    def list(self) -> list[ArtifactInfo]:
        found = []
        for field, entry in self._link.ask("HGETALL", self._index).items():
            try:
                name, known = names.artifact(field.decode()), _Known(entry)
            except ValueError as bad:
                _log.warning("the artifact %r is left out: %s", field, bad)
            else:
                found.append(self._info(name, known))
        return sorted(found, key=lambda info: info.name)

    def info(self, name: str) -> ArtifactInfo | None:
        entry = self._link.ask("HGET", self._index, names.artifact(name).encode())
        return None if entry is None else self._info(name, _known(name, entry))

    def write(
        self, name: str, type_: str, pieces: Iterable[bytes], description: str, metadata: Mapping[str, Any]
    ) -> ArtifactInfo:
        names.artifact(name)
        upload = _Upload(self._link, self._pieces)
        try:
            for piece in pieces:
                upload.add(piece)
            id_, value, count = upload.end()
        except BaseException:
            upload.give_up()
            raise
        created = datetime.now(UTC)
        entry = {
            "description": description,
            "created_at": created.isoformat(),
            "metadata": {**metadata, "_data_type": type_},
            "size": upload.size,
        }
        arguments: list[Word] = [name.encode(), json.dumps(entry).encode(), id_, value, count, self._pieces, READ_ON_S]
        # Where the connection breaks now, it may have been done: what was sent stays, or else expires.
        said = self._link.run(_SAVE, (*self._keys(name), self._pieces + id_), arguments, again=True)
        match said:
            case [b"saved"]:
                return ArtifactInfo(name, self._path(name), description, dict(metadata), created, type_, upload.size)
            case [b"artifact", found]:
                upload.give_up()
                raise names.is_artifact(found.decode(), name)
            case [b"folder", _]:
                upload.give_up()
                raise names.is_folder(name)
        raise StorageError(f"Redis at {self._link.where} has lost what was sent of {name!r}", retryable=True)

    def read(self, name: str) -> tuple[ArtifactInfo, Content]:
        names.artifact(name)
        found = self._link.run(_LOAD, self._keys(name), (name.encode(), self._pieces), again=True)
        if not found:
            raise ArtifactNotFoundError(f"Artifact {name!r} not found")
        known = _known(name, found[0])
        match found[1:]:
            case [b"whole", content]:
                return self._info(name, known, len(content)), _whole(content)
            case [b"pieces", id_, count]:
                return self._info(name, known), self._read(name, self._pieces + id_, int(count))
        raise self._gone(name)

    def remove(self, name: str) -> bool:
        keys, arguments = self._keys(names.artifact(name)), (name.encode(), self._pieces, READ_ON_S)
        return bool(self._link.run(_REMOVE, keys, arguments, again=False))

    def _keys(self, name: str) -> tuple[bytes, ...]:
        return self._index, self._path(name).encode(), self._by_name

    def _path(self, name: str) -> str:
        return self._contents + name

    def _read(self, name: str, key: bytes, count: int) -> Generator[bytes, None, None]:
        if count == 0:
            raise self._gone(name)
        for number in range(count):
            piece = self._link.run(_NEXT, (key,), (number, READ_ON_S), again=True)
            if piece is None:
                raise StorageError(f"artifact {name!r} was written again, or lost, while it was read", retryable=True)
            yield piece

    def _gone(self, name: str) -> StorageError:
        return StorageError(f"the content of artifact {name!r} is gone from Redis at {self._link.where}")

    def _info(self, name: str, known: _Known, size: int | None = None) -> ArtifactInfo:
        if known.size is not None:
            size = known.size
        elif size is None:
            size = int(self._link.ask("STRLEN", self._path(name).encode()))
        return ArtifactInfo(
            name, self._path(name), known.description, known.metadata, known.created_at, known.type, size
        )


class _Known:
    """An entry of the index, read."""

    def __init__(self, entry: bytes) -> None:
        """Raises ValueError for what is none."""
        try:
            read = json.loads(entry)
            metadata = dict(read.get("metadata") or {})
            created = datetime.fromisoformat(read["created_at"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as bad:
            raise ValueError(f"its entry in the index is damaged: {bad}") from None
        type_, size = metadata.get("_data_type"), read.get("size")
        self.description = str(read.get("description") or "")
        self.metadata = {key: value for key, value in metadata.items() if not key.startswith("_")}
        self.created_at = created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC)
        self.type = str(type_) if type_ in TYPES else "bytes"
        self.size = size if isinstance(size, int) else None


def _known(name: str, entry: bytes) -> _Known:
    try:
        return _Known(entry)
    except ValueError as bad:
        raise StorageError(f"artifact {name!r}: {bad}") from None


class _Upload:
    """A content on its way: held back up to WHOLE bytes, sent in pieces from there on."""

    def __init__(self, link: Link, pieces: bytes) -> None:
        self.size = 0
        self._link = link
        self._id = secrets.token_hex(16).encode()
        self._key = pieces + self._id
        self._held = bytearray()
        self._count = 0

    def add(self, piece: bytes) -> None:
        """Takes the next bytes, however many."""
        self.size += len(piece)
        view = memoryview(piece)
        while len(view):
            part, view = view[:PIECE], view[PIECE:]
            self._held += part
            if self._count or len(self._held) > WHOLE:
                self._send(PIECE)

    def end(self) -> tuple[bytes, bytes, int]:
        """The pieces' id and their number, or no id and the whole content."""
        if not self._count:
            return b"", bytes(self._held), 0
        self._send(1)
        return self._id, b"", self._count

    def give_up(self) -> None:
        """Removes what was sent. What cannot be removed now expires."""
        if self._count:
            try:
                self._link.ask("UNLINK", self._key)
            except StorageError as lost:
                _log.debug("pieces are left to expire: %s", lost)

    def _send(self, least: int) -> None:
        """Sends what is held, in pieces, as long as there are at least so many bytes."""
        while len(self._held) >= least:
            piece = bytes(self._held[:PIECE])
            self._link.run(_SEND, (self._key,), (self._count, piece, UNFINISHED_S), again=True)
            self._count += 1
            del self._held[:PIECE]


def _whole(content: bytes) -> Generator[bytes, None, None]:
    yield content
