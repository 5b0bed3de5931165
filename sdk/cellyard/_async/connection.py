"""A channel over which a controller has introduced itself, held for as long as somebody refers to it."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cellyard import _io_async, _tracing
from cellyard._channel import channel_settings
from cellyard._version import CLIENT, VERSION
from cellyard.endpoint import Endpoint
from cellyard.errors import ControllerUnavailable
from cellyard_proto import PROTOCOL
from cellyard_proto.v1 import sessions_pb2
from cellyard_proto.v1.executions_pb2_grpc import ExecutionsStub
from cellyard_proto.v1.files_pb2_grpc import FilesStub
from cellyard_proto.v1.kernels_pb2_grpc import KernelsStub
from cellyard_proto.v1.library_pb2_grpc import ArtifactsStub, WorkflowsStub
from cellyard_proto.v1.nodes_pb2_grpc import NodesStub
from cellyard_proto.v1.notebooks_pb2_grpc import NotebooksStub
from cellyard_proto.v1.processes_pb2_grpc import ProcessesStub
from cellyard_proto.v1.sandboxes_pb2_grpc import SandboxesStub
from cellyard_proto.v1.sessions_pb2_grpc import SessionsStub
from cellyard_proto.v1.tenants_pb2_grpc import TenantsStub

if TYPE_CHECKING:
    from cellyard_proto.v1.executions_pb2_grpc import ExecutionsAsyncStub
    from cellyard_proto.v1.files_pb2_grpc import FilesAsyncStub
    from cellyard_proto.v1.kernels_pb2_grpc import KernelsAsyncStub
    from cellyard_proto.v1.library_pb2_grpc import ArtifactsAsyncStub, WorkflowsAsyncStub
    from cellyard_proto.v1.nodes_pb2_grpc import NodesAsyncStub
    from cellyard_proto.v1.notebooks_pb2_grpc import NotebooksAsyncStub
    from cellyard_proto.v1.processes_pb2_grpc import ProcessesAsyncStub
    from cellyard_proto.v1.sandboxes_pb2_grpc import SandboxesAsyncStub
    from cellyard_proto.v1.sessions_pb2_grpc import SessionsAsyncStub
    from cellyard_proto.v1.tenants_pb2_grpc import TenantsAsyncStub

HELLO_TIMEOUT_S = 10.0

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Stubs:
    """The controller's services on one channel."""

    notebooks: NotebooksAsyncStub
    kernels: KernelsAsyncStub
    executions: ExecutionsAsyncStub
    sandboxes: SandboxesAsyncStub
    nodes: NodesAsyncStub
    sessions: SessionsAsyncStub
    files: FilesAsyncStub
    processes: ProcessesAsyncStub
    tenants: TenantsAsyncStub
    workflows: WorkflowsAsyncStub
    artifacts: ArtifactsAsyncStub


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A channel over which the controller has introduced itself, and the session's presence on it."""

    channel: _io_async.Channel
    credentials: Metadata
    stubs: Stubs
    hello: sessions_pb2.HelloResponse
    presence: _io_async.Call[sessions_pb2.AttachedSession] | None
    owner: object

    @property
    def metadata(self) -> Metadata:
        """What goes along with a call that is made now."""
        return self.credentials + _tracing.headers()

    def usable(self) -> bool:
        """Whether the controller still knows us on it, as far as can be told without asking."""
        if self.owner != _io_async.owner() or _io_async.broken(self.channel):
            return False
        return self.presence is None or not _io_async.ended(self.presence)


async def hold(endpoint: Endpoint, session: sessions_pb2.AttachSession | None) -> AsyncGenerator[Connection, None]:
    """Gives a connection and keeps it open for as long as this generator lives.

    It is a generator because those are closed by themselves: when nobody refers to the client any more, and
    in asyncio before the event loop is. (So it must not refer to the client.)
    """
    asked = channel_settings(endpoint)
    owner = _io_async.owner()
    channel = _io_async.open_channel(endpoint.target, asked.credentials, asked.options)
    stubs = _stubs(channel)
    presence: _io_async.Call[sessions_pb2.AttachedSession] | None = None
    try:
        introduced = await stubs.sessions.Hello(hello(), timeout=HELLO_TIMEOUT_S, metadata=asked.metadata)
        if session is not None:
            presence = stubs.sessions.Attach(session, metadata=asked.metadata)
            if await _io_async.first(presence) is None:
                raise ControllerUnavailable(f"the controller at {endpoint.name} is going away", retryable=True)
        yield Connection(channel, asked.metadata, stubs, introduced, presence, owner)
    finally:
        # What a fork's parent opened must not even be touched, and a dying interpreter has stopped gRPC's threads.
        if owner == _io_async.owner() and not sys.is_finalizing():
            if presence is not None:
                over = functools.partial(stubs.sessions.Hello, hello(), timeout=0, metadata=asked.metadata)
                await _io_async.end(presence, over)
            await channel.close()


def hello() -> sessions_pb2.HelloRequest:
    """How this client introduces itself."""
    return sessions_pb2.HelloRequest(client=CLIENT, client_version=VERSION, protocol=PROTOCOL)


def _stubs(channel: _io_async.Channel) -> Stubs:
    return Stubs(
        NotebooksStub(channel),
        KernelsStub(channel),
        ExecutionsStub(channel),
        SandboxesStub(channel),
        NodesStub(channel),
        SessionsStub(channel),
        FilesStub(channel),
        ProcessesStub(channel),
        TenantsStub(channel),
        WorkflowsStub(channel),
        ArtifactsStub(channel),
    )
