"""Operations of running code on its tenant's workflows and artifacts, where its client serves none.

One `Call` serves one call of the code. What it changes it changes once, however often it is served: so one that was
open when the controller died is served again. What it only reads is read anew then.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from cellyard_controller import errors
from cellyard_controller.library import artifacts as kept
from cellyard_controller.library.artifact_records import About, ArtifactRecord
from cellyard_controller.library.artifacts import Artifacts
from cellyard_controller.library.places import Place
from cellyard_controller.library.workflow_records import WorkflowRecord
from cellyard_controller.library.workflows import PAGE, Workflows
from cellyard_controller.store import StoreFailed
from cellyard_controller.store.requests import Request
from cellyard_proto import values
from cellyard_proto.codemode import artifacts as checks
from cellyard_proto.codemode import errors as shared
from cellyard_proto.codemode import names
from cellyard_proto.flows import split_path

_PIECE = 256 * 1024
_CLASSES: dict[str, type[shared.CodeModeError]] = {
    errors.WorkflowNotFound.reason: shared.WorkflowNotFoundError,
    errors.WorkflowInvalid.reason: shared.WorkflowValidationError,
    errors.ArtifactNotFound.reason: shared.ArtifactNotFoundError,
    errors.ArtifactNameInvalid.reason: shared.ArtifactNameError,
    errors.ArtifactInvalid.reason: shared.ArtifactDataError,
}


class Sink(Protocol):
    """A file of a sandbox that is being written."""

    async def send(self, content: bytes) -> None:
        """More of it."""


class SandboxFiles(Protocol):
    """The home of the sandbox that calls. What goes wrong there raises what `errors` has."""

    def read(self, path: str, max_bytes: int) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """A file's size, and its content."""
        ...

    def write(self, path: str, size: int) -> AbstractAsyncContextManager[Sink]:
        """A file of so many bytes; it is there, whole, when the block has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Library:
    """What is kept."""

    workflows: Workflows
    artifacts: Artifacts
    max_answer: int
    """Characters of an answer to the code."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call of running code."""

    function: str
    args: str
    """A JSON array, tagged."""
    kwargs: str
    """A JSON object, tagged."""
    request_id: str
    """The same whenever the same call is served again."""


async def serve(library: Library, place: Place, called: Called, files: SandboxFiles) -> str:
    """Serves a call: what it returns, as tagged JSON.

    Raises CodeModeError with what the code is to catch, and SandboxAway where the sandbox's connection broke in the
    middle of a transfer: then it is to be served again.
    """
    try:
        operation, arguments = await asyncio.to_thread(_read, called)
        digest = hashlib.sha256("\0".join((called.function, called.args, called.kwargs)).encode()).digest()
        call = _Call(library, place, files, Request(called.request_id, digest))
        returned = await call.operation(called.function, operation)(**arguments)
        return await asyncio.to_thread(values.encode, returned, library.max_answer)
    except errors.SandboxAway:
        raise
    except errors.Refused as refused:
        raise _CLASSES.get(refused.reason, shared.StorageError)(refused.message) from None
    except StoreFailed as failed:
        raise shared.StorageError(str(failed)) from None
    except values.TooLarge as large:
        raise shared.StorageError(f"the answer is {large}: ask for less") from None


_CHANGES = frozenset({"create", "delete", "save"})


def changes(called: Called) -> dict[str, str]:
    """For the audit log: what a call changes, and by which name; empty where it only looks, or cannot be read."""
    try:
        operation, arguments = _read(called)
    except shared.CodeModeError:
        return {}
    return {"operation": operation, "name": str(arguments.get("name", ""))} if operation in _CHANGES else {}


def _read(called: Called) -> tuple[str, dict[str, Any]]:
    try:
        args, kwargs = values.decode(called.args), values.decode(called.kwargs)
    except (ValueError, TypeError, KeyError, RecursionError) as bad:
        raise shared.CodeModeError(f"the arguments of {called.function} cannot be read: {bad}") from None
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], str) or not isinstance(kwargs, dict):
        raise shared.CodeModeError(f"{called.function} takes the name of an operation, and keyword arguments")
    return args[0], kwargs


class _Call:
    """One call, and all that it needs. Its operations are what code may name."""

    def __init__(self, library: Library, place: Place, files: SandboxFiles, request: Request) -> None:
        self._workflows, self._artifacts = library.workflows, library.artifacts
        self._left = library.max_answer
        self._place, self._files, self._request = place, files, request
        self._operations: dict[str, dict[str, Callable[..., Awaitable[Any]]]] = {
            names.WORKFLOWS: {
                "list": self._list_workflows,
                "search": self._search,
                "get": self._get_workflow,
                "create": self._create,
                "delete": self._delete_workflow,
            },
            names.ARTIFACTS: {
                "list": self._list_artifacts,
                "get": self._get_artifact,
                "exists": self._exists,
                "delete": self._delete_artifact,
                "save": self._save,
                "load": self._load,
            },
        }

    def operation(self, function: str, name: str) -> Callable[..., Awaitable[Any]]:
        """An operation by its name; calling it raises CodeModeError for arguments that it does not take."""
        method = self._operations.get(function, {}).get(name)
        if method is None:
            raise shared.CodeModeError(f"{function} has no operation {name[:100]!r}")
        signature = inspect.signature(method)

        def bound(**arguments: Any) -> Awaitable[Any]:
            try:
                signature.bind(**arguments)
            except TypeError as wrong:
                raise shared.CodeModeError(f"{name}: {wrong}") from None
            return method(**arguments)

        return bound

    # Workflows

    async def _list_workflows(self) -> list[dict[str, Any]]:
        return await self._all(self._workflows.page, _summary)

    async def _search(self, query: str, limit: int = 10) -> list[dict[str, Any]]:
        _must_be(str, query=query)
        _must_be(int, limit=limit)
        found = await self._workflows.search(self._place, query, max(0, min(limit, PAGE)))
        return [_summary(each) for each in found]

    async def _get_workflow(self, name: str) -> dict[str, Any] | None:
        _must_be(str, name=name)
        try:
            found = await self._workflows.get(self._place, _storable(name))
        except errors.WorkflowNotFound:
            return None
        return found.as_data() | {"source": found.source}

    async def _create(self, name: str, source: str, description: str = "") -> dict[str, Any]:
        for key, value in {"source": source, "description": description, "name": name}.items():
            if not isinstance(value, str):
                raise shared.WorkflowValidationError(f"a workflow's {key} is a str, not {type(value).__name__}")
        return _summary(await self._workflows.put(self._place, name, source, description, self._request))

    async def _delete_workflow(self, name: str) -> bool:
        if not isinstance(name, str):
            raise shared.WorkflowValidationError(f"a workflow's name is a str, not {type(name).__name__}")
        return await self._workflows.remove(self._place, name, self._request)

    # Artifacts

    async def _list_artifacts(self) -> list[dict[str, Any]]:
        return await self._all(self._artifacts.page, self._shown)

    async def _get_artifact(self, name: str) -> dict[str, Any] | None:
        found = await self._artifacts.find(self._place, name)
        return None if found is None else self._shown(found)

    async def _exists(self, name: str) -> bool:
        return await self._artifacts.find(self._place, name) is not None

    async def _delete_artifact(self, name: str) -> None:
        await self._artifacts.remove(self._place, name, self._request)

    async def _save(self, name: str, description: str = "", metadata: Any = None, **given: Any) -> dict[str, Any]:
        if len(given) != 1 or not given.keys() <= {"data", "file"}:
            raise shared.CodeModeError("save takes data or file")
        if "file" in given:
            path, type_ = _file(given["file"])
            said = kept.about(name, type_, description, metadata)
            async with self._files.read(path, self._artifacts.max_size) as (size, pieces):
                return self._shown(await self._keep(said, size, pieces))
        kept.named(name)
        type_, content = await asyncio.to_thread(checks.encode, given["data"])
        said = kept.about(name, type_, description, metadata)
        return self._shown(await self._keep(said, len(content), _one(content)))

    async def _keep(self, said: About, size: int, pieces: AsyncIterator[bytes]) -> ArtifactRecord:
        async with self._artifacts.writing(self._place, said, size) as writing:
            async for piece in pieces:
                await writing.add(piece)
            digest = await writing.finish()
            return await self._artifacts.keep(self._place, said, writing, digest, self._request)

    async def _load(self, name: str, into: str | None = None) -> dict[str, Any]:
        path = None if into is None else _path(into)
        found, file = await self._artifacts.read(self._place, name)
        with file:
            if found.size <= checks.INLINE:
                content = await asyncio.to_thread(file.read)
                inline = await asyncio.to_thread(_inline, found.type, content)
                if inline is not None:
                    return inline
                await asyncio.to_thread(file.seek, 0)
            if path is None:
                raise shared.ArtifactDataError(
                    f"artifact {name!r} has {found.size} bytes, and cannot be handed over but through a file"
                )
            async with self._files.write(path, found.size) as sink:
                while piece := await asyncio.to_thread(file.read, _PIECE):
                    await sink.send(piece)
        return {"type": found.type, "file": path}

    # Inside

    async def _all(
        self, page: Callable[..., Awaitable[tuple[list[Any], bool]]], shown: Callable[[Any], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What all pages have."""
        found: list[dict[str, Any]] = []
        more = True
        while more:
            some, more = await page(self._place, after=found[-1]["name"] if found else "")
            told, size = await asyncio.to_thread(_measured, some, shown, max(self._left, 2))
            self._left -= size
            found += told
        return found

    def _shown(self, found: ArtifactRecord) -> dict[str, Any]:
        return {
            "name": found.name,
            "path": checks.kept_path(self._place.workspace, found.name),
            "description": found.description,
            "metadata": dict(found.metadata),
            "created_at": datetime.fromtimestamp(found.created_at, UTC).isoformat(),
        }


def _measured(
    some: list[Any], shown: Callable[[Any], dict[str, Any]], max_bytes: int
) -> tuple[list[dict[str, Any]], int]:
    """What is told of these, and its size in an answer. Raises TooLarge."""
    told = [shown(each) for each in some]
    return told, len(values.encode(told, max_bytes))


def _summary(found: WorkflowRecord) -> dict[str, Any]:
    return found.as_data()


def _inline(type_: str, content: bytes) -> dict[str, Any] | None:
    """An answer with the value itself; None where it is nested deeper than an answer may be."""
    data = checks.decode(type_, content)
    try:
        values.encode(data, 8 * checks.INLINE)
    except values.TooLarge:
        return None
    return {"type": type_, "data": data}


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _file(given: object) -> tuple[str, str]:
    """Path and type of a file that is to be saved."""
    if not isinstance(given, dict) or given.keys() != {"path", "type"}:
        raise shared.CodeModeError("file has a path and a type")
    return _path(given["path"]), str(given["type"])


def _path(given: object) -> str:
    if not isinstance(given, str):
        raise shared.CodeModeError(f"a path is a str, not {type(given).__name__}")
    try:
        names_in_it = split_path(given)
    except ValueError as bad:
        raise shared.CodeModeError(f"the path {given[:200]!r}: {bad}") from None
    if not names_in_it:
        raise shared.CodeModeError(f"the path {given[:200]!r} names no file")
    return "/".join(names_in_it)


def _must_be(kind: type, **given: object) -> None:
    for name, value in given.items():
        if type(value) is not kind:
            raise shared.CodeModeError(f"{name} is of type {kind.__name__}, not {type(value).__name__}")


def _storable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
