"""Storage in Redis, laid out so that other programs can read it.

    PREFIX:workflows:__workflows__   hash: name -> JSON of name, description, source and parameters
    PREFIX:artifacts:NAME            a content; PREFIX:artifacts:__index__ is a hash: name -> JSON of the rest
    PREFIX:artifact-pieces:...       a content that is too large for one value (redis_artifacts.py)
    PREFIX:tools:__tools__           hash: name -> YAML
    PREFIX:deps:__deps__             hash: package -> requirement

A workspace has workflows and artifacts of its own, below PREFIX:ws:ID; tools and requirements are everybody's.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from cellyard.codemode.errors import StorageError
from cellyard.codemode.storage import names
from cellyard.codemode.storage.backend import Backend
from cellyard.codemode.storage.protocols import StoredTool, StoredWorkflow
from cellyard.codemode.storage.redis_artifacts import RedisArtifacts
from cellyard.codemode.storage.redis_link import Link
from cellyard.errors import InvalidRequest

if TYPE_CHECKING:
    from redis import Redis

_log = logging.getLogger("cellyard.codemode")

_MAX_PREFIX = 200


class RedisStorage(Backend):
    """Keeps everything in a Redis database below a prefix. It may be used by several threads and programs at once.

    What an answer of Redis has confirmed is as safe as its configuration makes it: without an append-only file that
    is written at once, what came last is lost with the server.
    """

    def __init__(
        self,
        url: str | None = None,
        redis: Redis | None = None,
        prefix: str = "cellyard",
        workspace_id: str | None = None,
    ) -> None:
        """Exactly one of `url` and `redis`, a synchronous client of which nothing is changed. Connects later.

        Raises InvalidRequest for arguments that are wrong, CapabilityUnavailable where the package redis is missing.
        """
        super().__init__(workspace_id)
        self._prefix = prefix = _checked(prefix)
        self._link = Link(url, redis)
        scope = prefix if self._workspace_id is None else f"{prefix}:ws:{self._workspace_id}"
        self._workflows = RedisWorkflows(self._link, f"{scope}:workflows:__workflows__")
        self._artifacts = RedisArtifacts(self._link, scope)
        self._tools = RedisTools(self._link, f"{prefix}:tools:__tools__")
        self._deps = RedisDeps(self._link, f"{prefix}:deps:__deps__")

    def __repr__(self) -> str:
        scope = "" if self._workspace_id is None else f", workspace_id={self._workspace_id!r}"
        return f"RedisStorage(<{self._link.where}>, prefix={self._prefix!r}{scope})"

    @property
    def prefix(self) -> str:
        """What all keys begin with, whatever the workspace."""
        return self._prefix

    @property
    def client(self) -> Redis:
        """The client that is used."""
        client: Redis = self._link.client
        return client

    def close(self) -> None:
        """Lets go of the connections, unless the client was given."""
        self._link.close()


def _checked(prefix: object) -> str:
    if not isinstance(prefix, str) or not prefix.isprintable() or not 0 < len(prefix) <= _MAX_PREFIX:
        raise InvalidRequest(f"a prefix has 1 to {_MAX_PREFIX} printable characters")
    return prefix


class RedisWorkflows:
    """Workflows as fields of a hash."""

    def __init__(self, link: Link, key: str) -> None:
        self._link, self._key = link, key.encode()

    def list(self) -> list[StoredWorkflow]:
        found = []
        for field, value in sorted(self._link.ask("HGETALL", self._key).items()):
            try:
                found.append(self._read(field, value))
            except StorageError as damaged:
                _log.warning("left out: %s", damaged)
        return found

    def get(self, name: str) -> StoredWorkflow | None:
        value = self._link.ask("HGET", self._key, names.workflow(name).encode())
        return None if value is None else self._read(name.encode(), value)

    def put(self, workflow: StoredWorkflow) -> None:
        parsed = names.parsed(workflow)
        # Others read the description here, so it is the one in force; ours is to know whether it was given.
        value = {**parsed.as_data(), "description_given": bool(workflow.description)}
        self._link.ask("HSET", self._key, workflow.name.encode(), json.dumps(value).encode())

    def remove(self, name: str) -> bool:
        return bool(self._link.ask("HDEL", self._key, names.workflow(name).encode(), again=False))

    def _read(self, field: bytes, value: bytes) -> StoredWorkflow:
        try:
            name = names.workflow(field.decode())
            data = json.loads(value)
            source, description = data["source"], data.get("description") or ""
            if not isinstance(source, str) or not isinstance(description, str):
                raise TypeError("source and description are no texts")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as bad:
            raise StorageError(f"the workflow {field!r} in {self._key!r} is damaged: {bad}") from None
        return StoredWorkflow(name, source, description if data.get("description_given", True) else "")


class RedisTools:
    """Definitions of tools as fields of a hash."""

    def __init__(self, link: Link, key: str) -> None:
        self._link, self._key = link, key

    def list(self) -> list[StoredTool]:
        found = []
        for field, text in sorted(self._link.ask("HGETALL", self._key.encode()).items()):
            try:
                name = names.tool(field.decode())
            except ValueError as bad:
                _log.warning("left out of %s: %s", self._key, bad)
            else:
                found.append(StoredTool(name, text, f"{self._key}/{name}"))
        return found

    def put(self, tool: StoredTool) -> None:
        self._link.ask("HSET", self._key.encode(), names.tool(tool.name).encode(), tool.text)

    def remove(self, name: str) -> bool:
        return bool(self._link.ask("HDEL", self._key.encode(), names.tool(name).encode(), again=False))


class RedisDeps:
    """Requirements as fields of a hash."""

    def __init__(self, link: Link, key: str) -> None:
        self._link, self._key = link, key.encode()

    def list(self) -> list[str]:
        return sorted(value.decode(errors="replace") for value in self._link.ask("HVALS", self._key))

    def put(self, requirement: str) -> None:
        self._link.ask("HSET", self._key, names.package(requirement).encode(), requirement.encode())

    def remove(self, package: str) -> bool:
        return bool(self._link.ask("HDEL", self._key, names.package(package).encode(), again=False))
