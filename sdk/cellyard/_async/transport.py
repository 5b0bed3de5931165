"""One client's connection to a controller: opened when needed, introduced, and healed when it breaks.

A connection is `none`, `open` or `closed`. A broken one is dropped for a fresh one, and the call that met the
break is made again with the same request id, for up to 30 s.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc

from cellyard import _fork, _io_async, embedded
from cellyard._channel import channel_settings
from cellyard._healing import RECONNECT_S, Healing
from cellyard._rpc_errors import translate
from cellyard._version import CLIENT, VERSION
from cellyard.endpoint import Endpoint, require_listener
from cellyard.errors import CellyardError, ControllerUnavailable, NotConnected
from cellyard_proto import PROTOCOL
from cellyard_proto.v1 import sessions_pb2
from cellyard_proto.v1.executions_pb2_grpc import ExecutionsStub
from cellyard_proto.v1.files_pb2_grpc import FilesStub
from cellyard_proto.v1.kernels_pb2_grpc import KernelsStub
from cellyard_proto.v1.library_pb2_grpc import ArtifactsStub, WorkflowsStub
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
    from cellyard_proto.v1.notebooks_pb2_grpc import NotebooksAsyncStub
    from cellyard_proto.v1.processes_pb2_grpc import ProcessesAsyncStub
    from cellyard_proto.v1.sandboxes_pb2_grpc import SandboxesAsyncStub
    from cellyard_proto.v1.sessions_pb2_grpc import SessionsAsyncStub
    from cellyard_proto.v1.tenants_pb2_grpc import TenantsAsyncStub

CALL_TIMEOUT_S = 60.0
HELLO_TIMEOUT_S = 10.0
PING_TIMEOUT_S = 2.0
CLOSED = "not connected: the session is closed"

Metadata: TypeAlias = tuple[tuple[str, str], ...]

Request = TypeVar("Request")
Response = TypeVar("Response")


class Deadline(Exception):
    """The time that the caller of `stream` gave it is over."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """The controller's services on one channel."""

    notebooks: NotebooksAsyncStub
    kernels: KernelsAsyncStub
    executions: ExecutionsAsyncStub
    sandboxes: SandboxesAsyncStub
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
    metadata: Metadata
    stubs: Stubs
    hello: sessions_pb2.HelloResponse
    presence: _io_async.Call[sessions_pb2.AttachedSession] | None
    owner: object

    def usable(self) -> bool:
        """Whether the controller still knows us on it, as far as can be told without asking."""
        if self.owner != _io_async.owner() or _io_async.broken(self.channel):
            return False
        return self.presence is None or not _io_async.ended(self.presence)


class AsyncTransport:
    """One client's way to a controller. Safe to share between threads or tasks."""

    def __init__(
        self,
        resolve: Callable[[], Endpoint],
        presence: sessions_pb2.AttachSession | None = None,
    ) -> None:
        self._resolve = resolve
        self._presence = presence
        self._endpoint: Endpoint | None = None
        self._connection: Connection | None = None
        self._holder: AsyncGenerator[Connection, None] | None = None
        self._controller_id = ""
        self._open = False
        self._lock = _io_async.Lock()
        self._lock_owner: object = None
        self.reconnect_s = RECONNECT_S

    @property
    def is_open(self) -> bool:
        """Whether it was connected and not closed since; the connection may be broken for the moment."""
        return self._open

    @property
    def endpoint(self) -> Endpoint:
        """Where it connects to. Raises what resolving raises."""
        if self._endpoint is None:
            self._endpoint = self._resolve()
        return self._endpoint

    async def connect(self, *, start: bool = True) -> sessions_pb2.HelloResponse:
        """Connects, once and without healing; `start` allows to start the user's own controller.

        Raises ControllerUnavailable where nobody answers, Unauthenticated for a token that is not in force.
        """
        try:
            connection = await self._ready(start=start)
        except grpc.RpcError as error:
            raise translate(error, self.endpoint.name)[0] from None
        self._open = True
        return connection.hello

    async def reachable(self) -> bool:
        """Whether the controller answers now."""
        if not self._open:
            return False
        for _ in range(2):  # a broken connection may not have noticed; a fresh one tells the truth
            connection: Connection | None = None
            try:
                connection = await self._ready(start=False)
                hello = connection.stubs.sessions.Hello
                await hello(_hello(), timeout=PING_TIMEOUT_S, metadata=connection.metadata)
                return True
            except (grpc.RpcError, CellyardError):
                if connection is None:
                    return False
                if self._connection is connection:
                    self._connection = None
        return False

    async def call(
        self,
        method: Callable[[Stubs], _io_async.Unary[Request, Response]],
        request: Request,
        *,
        timeout: float = CALL_TIMEOUT_S,
    ) -> Response:
        """Makes a call, and makes it again where the connection breaks. `timeout` (seconds) is for each try."""
        healing = Healing(self.reconnect_s)
        while True:
            connection: Connection | None = None
            try:
                connection = await self._ready()
                return await method(connection.stubs)(request, timeout=timeout, metadata=connection.metadata)
            except (grpc.RpcError, CellyardError, _io_async.ChannelClosed) as error:
                await self._mend(error, connection, healing)
            except _io_async.Cancelled:
                if _io_async.cancelled_by_caller():
                    raise
                # Another call found the connection broken and replaced it under this one, or closed it.
                await self._mend(_broken("the connection was replaced"), connection, healing)

    async def attempt(
        self,
        method: Callable[[Stubs], _io_async.Unary[Request, Response]],
        request: Request,
        *,
        timeout: float = CALL_TIMEOUT_S,
    ) -> Response | None:
        """Makes a call once, on the connection that stands; None where it goes wrong."""
        connection = self._connection
        if connection is None or not connection.usable():
            return None
        try:
            return await method(connection.stubs)(request, timeout=timeout, metadata=connection.metadata)
        except (grpc.RpcError, _io_async.ChannelClosed):
            return None

    async def stream(
        self,
        ask: Callable[[Connection], _io_async.Call[Response]],
        last: Callable[[Response], bool],
    ) -> AsyncGenerator[Response, None]:
        """The messages of a stream up to its last one. Where it breaks, `ask` is called again.

        Raises Deadline when the time that `ask` gave the stream is over.
        """
        healing = Healing(self.reconnect_s)
        while True:
            connection: Connection | None = None
            call: _io_async.Call[Response] | None = None
            try:
                connection = await self._ready()
                call = ask(connection)
                async for message in call:
                    healing.healed()
                    yield message
                    if last(message):
                        return
                raise _broken("the stream ended before its last message")
            except (grpc.RpcError, CellyardError, _io_async.ChannelClosed) as error:
                if isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise Deadline from None
                await self._mend(error, connection, healing)
            except _io_async.Cancelled:
                if _io_async.cancelled_by_caller():
                    raise
                # Another call found the connection broken and replaced it under this one, or closed it.
                await self._mend(_broken("the connection was replaced"), connection, healing)
            finally:
                if call is not None:
                    call.cancel()

    async def close(self) -> None:
        """Closes the connection; calls that wait raise NotConnected. Twice is fine."""
        self._open = False
        self._controller_id = ""
        self._connection = None
        holder, self._holder = self._holder, None
        if holder is not None:
            await holder.aclose()

    async def _ready(self, *, start: bool = True) -> Connection:
        connection = self._connection
        if connection is not None and connection.usable():
            return connection
        _fork.check(_io_async.FLAVOUR)
        async with self._own_lock():
            connection = self._connection
            if connection is None or not connection.usable():
                connection = await self._establish(start)
                self._connection = connection
            return connection

    async def _establish(self, start: bool) -> Connection:
        endpoint = self.endpoint
        if not endpoint.own or not start:
            require_listener(endpoint)
        elif not embedded.running(endpoint):
            await _io_async.in_thread(embedded.ensure, endpoint)
        holder = _hold(endpoint, self._presence)
        connection = await anext(holder)
        self._check(connection.hello, endpoint)
        self._holder = holder
        return connection

    def _check(self, hello: sessions_pb2.HelloResponse, endpoint: Endpoint) -> None:
        if hello.protocol != PROTOCOL:
            raise ControllerUnavailable(
                f"the controller at {endpoint.name} (version {hello.server_version}) speaks protocol"
                f" {hello.protocol}, and this client (version {VERSION}) speaks {PROTOCOL}: use matching versions"
            )
        if self._controller_id and hello.controller_id != self._controller_id:
            # Its notebooks and request ids are others: repeating a call there could run code a second time.
            raise ControllerUnavailable(f"another controller answers at {endpoint.name} than before: connect anew")
        self._controller_id = hello.controller_id

    async def _mend(self, error: Exception, connection: Connection | None, healing: Healing) -> None:
        """Returns when the call may be tried again; raises where that does not help."""
        if not self._open:
            raise NotConnected(CLOSED) from None
        if isinstance(error, grpc.RpcError):
            failure, broken = translate(error, self.endpoint.name)
        elif isinstance(error, CellyardError):
            failure, broken = error, isinstance(error, ControllerUnavailable) and error.retryable
        else:
            raise error
        if not broken:
            raise failure from None
        if connection is not None and self._connection is connection:
            self._connection = None
        pause = healing.next_pause(time.monotonic())
        if pause is None:
            raise ControllerUnavailable(
                f"the connection to {self.endpoint.name} broke and did not come back within"
                f" {self.reconnect_s:g} s: {failure}",
                retryable=True,
                details=failure.details,
            ) from None
        await _io_async.sleep(pause)

    def _own_lock(self) -> _io_async.Lock:
        owner = _io_async.owner()
        if self._lock_owner not in (None, owner):
            self._lock = _io_async.Lock()  # the old one belongs to an event loop or a process that is gone
        self._lock_owner = owner
        return self._lock


async def _hold(endpoint: Endpoint, session: sessions_pb2.AttachSession | None) -> AsyncGenerator[Connection, None]:
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
        hello = await stubs.sessions.Hello(_hello(), timeout=HELLO_TIMEOUT_S, metadata=asked.metadata)
        if session is not None:
            presence = stubs.sessions.Attach(session, metadata=asked.metadata)
            if await _io_async.first(presence) is None:
                raise _broken(f"the controller at {endpoint.name} is going away")
        yield Connection(channel, asked.metadata, stubs, hello, presence, owner)
    finally:
        # What a fork's parent opened must not even be touched, and a dying interpreter has stopped gRPC's threads.
        if owner == _io_async.owner() and not sys.is_finalizing():
            if presence is not None:
                over = functools.partial(stubs.sessions.Hello, _hello(), timeout=0, metadata=asked.metadata)
                await _io_async.end(presence, over)
            await channel.close()


def _broken(why: str) -> ControllerUnavailable:
    return ControllerUnavailable(why, retryable=True)


def _hello() -> sessions_pb2.HelloRequest:
    return sessions_pb2.HelloRequest(client=CLIENT, client_version=VERSION, protocol=PROTOCOL)


def _stubs(channel: _io_async.Channel) -> Stubs:
    return Stubs(
        NotebooksStub(channel),
        KernelsStub(channel),
        ExecutionsStub(channel),
        SandboxesStub(channel),
        SessionsStub(channel),
        FilesStub(channel),
        ProcessesStub(channel),
        TenantsStub(channel),
        WorkflowsStub(channel),
        ArtifactsStub(channel),
    )
