"""Workflows and artifacts at a controller, which keeps them for the tenant.

Tools and requirements it does not keep: tools run at the client, whose folders hold their definitions, and packages
belong to a session's environment. So the store of tools is empty and takes none, and requirements are remembered for
as long as the storage is.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

from cellyard import _io_sync, _requests
from cellyard import endpoint as endpoints
from cellyard._sync.connection import Metadata
from cellyard._sync.transport import Connection, Stubs, Transport
from cellyard.codemode.errors import ArtifactNotFoundError as _NoArtifact
from cellyard.codemode.errors import CodeModeError, StorageError, WorkflowNotFoundError
from cellyard.codemode.storage import names
from cellyard.codemode.storage.backend import Backend
from cellyard.codemode.storage.protocols import ArtifactInfo, Content, StoredTool, StoredWorkflow
from cellyard.errors import CellyardError
from cellyard_proto.codemode.artifacts import kept_path
from cellyard_proto.v1 import library_pb2 as pb

_HELD = 8 * 1024 * 1024
"""Bytes of an artifact that are held in memory on the way to the controller; of a larger one a file is made first."""
_PART = 256 * 1024
_CALL_S, _SLOWEST = 60.0, 1024 * 1024
"""Seconds that a call is given, and bytes of an artifact that travel in each second that it is given beside them."""


class ControllerStorage(Backend):
    """A tenant's workflows and artifacts at a controller, or those of one workspace of it.

    Endpoint, token and tls are found as for a session. It connects at the first use, and again where the connection
    breaks. May be used from several threads, and after `close` again.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        tls: bool | endpoints.TLS = False,
        workspace_id: str | None = None,
    ) -> None:
        """Raises InvalidRequest for a workspace_id that can be none."""
        super().__init__(workspace_id)
        self._calls = _Calls(Transport(lambda: endpoints.resolve(endpoint, token, tls)))
        self._workflows = _Workflows(self._calls, workspace_id or "")
        self._artifacts = _Artifacts(self._calls, workspace_id or "")
        self._tools, self._deps = _NoTools(), _Remembered()

    def close(self) -> None:
        """Closes the connection; twice is fine. The next use opens it again."""
        self._calls.transport.close()


class _Calls:
    """A connection, opened when it is needed, whose errors are code mode's."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def call(self, method: Callable[[Stubs], Callable[..., Any]], request: object, timeout: float = _CALL_S) -> Any:
        """Makes a call, again where the connection breaks. Raises CodeModeError."""
        with storage_errors():
            self.connect()
            return self.transport.call(method, request, timeout=timeout)  # type: ignore[arg-type]

    def connect(self) -> None:
        """Connects unless it is connected."""
        if not self.transport.is_open:
            self.transport.connect()


@contextmanager
def storage_errors() -> Iterator[None]:
    """What goes wrong with a controller is a StorageError, apart from what code mode has a name for."""
    try:
        yield
    except CodeModeError:
        raise
    except CellyardError as failed:
        raise StorageError(failed.message, retryable=failed.retryable, details=failed.details) from failed


class _Workflows:
    """Workflows by name."""

    def __init__(self, calls: _Calls, workspace: str) -> None:
        self._calls, self._workspace = calls, workspace

    def list(self) -> list[StoredWorkflow]:
        """All of them, by name."""
        found: list[StoredWorkflow] = []
        more = True
        while more:
            after = found[-1].name if found else ""
            request = pb.ListWorkflows(workspace_id=self._workspace, after_name=after, with_sources=True)
            page: pb.ListWorkflowsResponse = self._calls.call(lambda s: s.workflows.List, request)
            found += map(_workflow, page.workflows)
            more = page.more
        return found

    def get(self, name: str) -> StoredWorkflow | None:
        """One of them, None where there is none."""
        try:
            request = pb.GetWorkflow(workspace_id=self._workspace, name=names.workflow(name))
            return _workflow(self._calls.call(lambda s: s.workflows.Get, request))
        except WorkflowNotFoundError:
            return None

    def put(self, workflow: StoredWorkflow) -> None:
        """Keeps it, in place of one of the same name. Raises WorkflowValidationError too, of here and of there."""
        names.parsed(workflow)
        request = pb.PutWorkflow(
            workspace_id=self._workspace,
            name=workflow.name,
            source=workflow.source,
            description=workflow.description,
            request_id=_requests.request_id(),
        )
        self._calls.call(lambda s: s.workflows.Put, request)

    def remove(self, name: str) -> bool:
        """False where there is none."""
        request = pb.RemoveWorkflow(
            workspace_id=self._workspace, name=names.workflow(name), request_id=_requests.request_id()
        )
        return bool(self._calls.call(lambda s: s.workflows.Remove, request).removed)


class _Artifacts:
    """Artifacts by name."""

    def __init__(self, calls: _Calls, workspace: str) -> None:
        self._calls, self._workspace = calls, workspace

    def list(self) -> list[ArtifactInfo]:
        """All of them, by name."""
        found: list[ArtifactInfo] = []
        more = True
        while more:
            request = pb.ListArtifacts(workspace_id=self._workspace, after_name=found[-1].name if found else "")
            page: pb.ListArtifactsResponse = self._calls.call(lambda s: s.artifacts.List, request)
            found += map(self._info, page.artifacts)
            more = page.more
        return found

    def info(self, name: str) -> ArtifactInfo | None:
        """What is known of one, None where there is none."""
        try:
            request = pb.GetArtifact(workspace_id=self._workspace, name=names.artifact(name))
            return self._info(self._calls.call(lambda s: s.artifacts.Get, request))
        except _NoArtifact:
            return None

    def write(
        self, name: str, type_: str, pieces: Iterable[bytes], description: str, metadata: Mapping[str, Any]
    ) -> ArtifactInfo:
        """Keeps it once the last piece has come. What cannot be sent a second time is put into a file first."""
        names.artifact(name)
        spool = _Spool(pieces)
        try:
            begin = pb.WriteArtifactBegin(
                workspace_id=self._workspace,
                name=name,
                type=type_,
                description=description,
                metadata_json=json.dumps(dict(metadata)),
                size=spool.size,
                request_id=_requests.request_id(),
            )
            timeout = _CALL_S + spool.size / _SLOWEST
            return self._info(self._calls.call(_upload(begin, spool), begin, timeout=timeout))
        finally:
            spool.close()

    def read(self, name: str) -> tuple[ArtifactInfo, Content]:
        """The content in pieces, of one and the same writing. Raises ArtifactNotFoundError."""
        pieces = self._read(pb.ReadArtifact(workspace_id=self._workspace, name=names.artifact(name)))
        about = next(pieces)
        assert isinstance(about, ArtifactInfo)
        return about, cast(Content, pieces)  # what follows is content alone

    def remove(self, name: str) -> bool:
        """False where there is none."""
        request = pb.RemoveArtifact(
            workspace_id=self._workspace, name=names.artifact(name), request_id=_requests.request_id()
        )
        return bool(self._calls.call(lambda s: s.artifacts.Remove, request).removed)

    def _read(self, request: pb.ReadArtifact) -> Generator[ArtifactInfo | bytes, None, None]:
        """First what is known of it, then its content.

        Where the connection breaks it is read again, and what came before is skipped: where it is another writing by
        then, that is an error.
        """
        about: pb.Artifact | None = None
        given = skip = 0

        def ask(connection: Connection) -> _io_sync.Call[pb.ArtifactPart]:
            nonlocal skip
            skip = given
            return connection.stubs.artifacts.Read(request, metadata=connection.metadata)

        with storage_errors():
            self._calls.connect()
            parts = self._calls.transport.stream(ask, lambda part: part.last)
            try:
                for part in parts:
                    if part.HasField("about"):
                        if about is None:
                            about = part.about
                            yield self._info(about)
                        elif part.about != about:
                            raise StorageError(f"artifact {request.name!r} was written anew while it was read")
                        continue
                    content = part.content[skip:]
                    skip -= len(part.content) - len(content)
                    given += len(content)
                    if content:
                        yield content
            finally:
                parts.close()

    def _info(self, about: pb.Artifact) -> ArtifactInfo:
        return ArtifactInfo(
            name=about.name,
            path=kept_path(self._workspace, about.name),
            description=about.description,
            metadata=json.loads(about.metadata_json),
            created_at=datetime.fromtimestamp(about.created_at, UTC),
            type=about.type,
            size=about.size,
        )


class _NoTools:
    """No tools."""

    def list(self) -> list[StoredTool]:
        """None."""
        return []

    def put(self, tool: StoredTool) -> None:
        """Raises StorageError."""
        name = names.tool(tool.name)
        raise StorageError(
            f"a controller keeps no tools, and so not {name!r}: give the session tools_path, or another storage"
        )

    def remove(self, name: str) -> bool:
        """There is none."""
        names.tool(name)
        return False


class _Remembered:
    """Requirements in memory."""

    def __init__(self) -> None:
        self._by_package: dict[str, str] = {}
        self._lock = threading.Lock()

    def list(self) -> list[str]:
        """All of them, sorted."""
        with self._lock:
            return sorted(self._by_package.values())

    def put(self, requirement: str) -> None:
        """Remembers it, in place of one for the same package."""
        with self._lock:
            self._by_package[names.package(requirement)] = requirement

    def remove(self, package: str) -> bool:
        """False where there is none for this package."""
        with self._lock:
            return self._by_package.pop(names.package(package), None) is not None


class _Spool:
    """An artifact on its way to the controller: in memory, or in a file where it is large.

    gRPC reads what it sends in a thread of its own, and may still do so where the call was made again meanwhile.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_HELD)  # noqa: SIM115  (open until it is sent)
        self._lock = threading.Lock()
        try:
            self.size = sum(map(self._file.write, pieces))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of it."""
        with self._lock:
            self._file.close()

    def parts(self) -> Iterator[bytes]:
        """All of it from its start; it ends early where it was closed."""
        offset = 0
        while True:
            with self._lock:
                if self._file.closed:
                    return
                self._file.seek(offset)
                content = self._file.read(_PART)
            if not content:
                return
            offset += len(content)
            yield content


def _upload(begin: pb.WriteArtifactBegin, spool: _Spool) -> Callable[[Stubs], Callable[..., pb.Artifact]]:
    """The method that sends all of it, from its start whenever it is called."""

    def parts() -> Iterator[pb.WriteArtifact]:
        yield pb.WriteArtifact(begin=begin)
        for content in spool.parts():
            yield pb.WriteArtifact(content=content)

    def method(stubs: Stubs) -> Callable[..., pb.Artifact]:
        def send(_: object, *, timeout: float, metadata: Metadata) -> pb.Artifact:
            return stubs.artifacts.Write(parts(), timeout=timeout, metadata=metadata)

        return send

    return method


def _workflow(found: pb.Workflow) -> StoredWorkflow:
    return StoredWorkflow(found.name, found.source, found.description if found.described else "")
