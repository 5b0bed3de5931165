"""One client's connection to a controller: opened when needed, introduced, and healed when it breaks.

A connection is `none`, `open` or `closed`. A broken one is dropped for a fresh one, and the call that met the
break is made again with the same request id, for up to 30 s.

Where several controllers share a store, a notebook is on one of their nodes. Whoever else is asked names that one, and
the call is made again there, over a connection that is kept. When that one does not answer any more, the controller
that was asked first is asked again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import grpc

from cellyard import _fork, _io_async, embedded
from cellyard._async.connection import Connection as Connection
from cellyard._async.connection import Stubs as Stubs
from cellyard._async.connection import hello, hold
from cellyard._healing import MAX_HOPS, RECONNECT_S, Healing
from cellyard._redirects import Routes, target
from cellyard._rpc_errors import translate
from cellyard._version import VERSION
from cellyard.endpoint import Endpoint, require_listener
from cellyard.errors import CellyardError, ControllerUnavailable, NotConnected, NotOwner, Unauthenticated
from cellyard_proto import PROTOCOL
from cellyard_proto.v1 import sessions_pb2

CALL_TIMEOUT_S = 60.0
PING_TIMEOUT_S = 2.0
_LOOKS = 4
_MOST_AWAY = 32
"""Connections of one client to controllers that it was redirected to."""
CLOSED = "not connected: the session is closed"

Request = TypeVar("Request")
Response = TypeVar("Response")


class Deadline(Exception):
    """The time that the caller of `stream` gave it is over."""


class AsyncTransport:
    """One client's way to a controller. Safe to share between threads or tasks."""

    def __init__(
        self,
        resolve: Callable[[], Endpoint],
        presence: sessions_pb2.AttachSession | None = None,
    ) -> None:
        """With `presence` everything is about that notebook, and goes where the notebook is."""
        self._resolve = resolve
        self._presence = presence
        self._endpoint: Endpoint | None = None
        self._routes = Routes()
        self._connections: dict[str, Connection] = {}
        self._holders: dict[str, AsyncGenerator[Connection, None]] = {}
        self._met: sessions_pb2.HelloResponse | None = None
        self._open = False
        self._locks: dict[str, _io_async.Lock] = {}
        self._lock_owner: object = None
        self.reconnect_s = RECONNECT_S

    @property
    def is_open(self) -> bool:
        """Whether it was connected and not closed since; the connection may be broken for the moment."""
        return self._open

    @property
    def endpoint(self) -> Endpoint:
        """Where it connects to, and asks first. Raises what resolving raises."""
        if self._endpoint is None:
            self._endpoint = self._resolve()
        return self._endpoint

    def standing(self, request: object = None) -> Connection | None:
        """The connection over which a call would go that is made now, usable or not; None where there is none."""
        return self._connections.get(self._where(self._about(request)).name)

    async def connect(self, *, start: bool = True) -> sessions_pb2.HelloResponse:
        """Connects, once and without healing; `start` allows to start the user's own controller.

        Where a notebook's owner is not settled yet that is waited for, as in every call.

        Raises ControllerUnavailable where nobody answers, Unauthenticated for a token that is not in force.
        """
        about, healing = self._about(None), Healing(self.reconnect_s)
        while True:
            where = self._where(about)
            try:
                connection = await self._ready(where, start=start)
            except (grpc.RpcError, CellyardError) as error:
                failure, broken = self._failure(error, where, None)
                followed = healing.begun or where != self.endpoint or isinstance(failure, NotOwner)
                if not followed and "retry_after_s" not in failure.details:
                    raise failure from None
                await _io_async.sleep(self._again(failure, broken, about, where, None, healing))
            else:
                self._open = True
                return connection.hello

    async def reachable(self) -> bool:
        """Whether the controller answers now."""
        if not self._open:
            return False
        about = self._about(None)
        for _ in range(_LOOKS):  # a broken connection may not have noticed; a fresh one tells the truth
            where = self._where(about)
            connection: Connection | None = None
            try:
                connection = await self._ready(where, start=False)
                ping = connection.stubs.sessions.Hello
                await ping(hello(), timeout=PING_TIMEOUT_S, metadata=connection.metadata)
                return True
            except (grpc.RpcError, CellyardError) as error:
                try:
                    failure, _ = self._failure(error, where, connection)
                    if isinstance(failure, NotOwner):
                        self._follow(failure, about, where)
                    elif connection is None and where == self.endpoint:
                        return False
                    else:
                        self._routes.forget(about, where)
                except CellyardError:  # it leads nowhere
                    return False
                self._drop(where, connection)
        return False

    async def call(
        self,
        method: Callable[[Stubs], _io_async.Unary[Request, Response]],
        request: Request,
        *,
        timeout: float = CALL_TIMEOUT_S,
    ) -> Response:
        """Makes a call, and makes it again where the connection breaks. `timeout` (seconds) is for each try.

        One that is about a notebook goes where that was found last, and from there where it is redirected to.
        """
        about, healing = self._about(request), Healing(self.reconnect_s)
        while True:
            connection: Connection | None = None
            where = self._where(about)
            try:
                connection = await self._ready(where)
                return await method(connection.stubs)(request, timeout=timeout, metadata=connection.metadata)
            except (grpc.RpcError, CellyardError, _io_async.ChannelClosed) as error:
                await self._mend(error, about, where, connection, healing)
            except _io_async.Cancelled:
                if _io_async.cancelled_by_caller():
                    raise
                # Another call found the connection broken and replaced it under this one, or closed it.
                await self._mend(_broken("the connection was replaced"), about, where, connection, healing)

    async def attempt(
        self,
        method: Callable[[Stubs], _io_async.Unary[Request, Response]],
        request: Request,
        *,
        timeout: float = CALL_TIMEOUT_S,
    ) -> Response | None:
        """Makes a call once, on the connection that stands; None where it goes wrong."""
        connection = self.standing(request)
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
        about, healing = self._about(None), Healing(self.reconnect_s)
        while True:
            connection: Connection | None = None
            call: _io_async.Call[Response] | None = None
            where = self._where(about)
            try:
                connection = await self._ready(where)
                call = ask(connection)
                async for message in call:
                    healing.healed()
                    yield message
                    if last(message):
                        return
                raise _broken("the stream ended before its last message")
            except (grpc.RpcError, CellyardError, _io_async.ChannelClosed) as error:
                if call is not None and _timed_out(error):
                    raise Deadline from None
                await self._mend(error, about, where, connection, healing)
            except _io_async.Cancelled:
                if _io_async.cancelled_by_caller():
                    raise
                # Another call found the connection broken and replaced it under this one, or closed it.
                await self._mend(_broken("the connection was replaced"), about, where, connection, healing)
            finally:
                if call is not None:
                    call.cancel()

    async def close(self) -> None:
        """Closes the connection; calls that wait raise NotConnected. Twice is fine."""
        self._open = False
        self._met = None
        self._routes.clear()
        self._connections.clear()
        holders, self._holders = list(self._holders.values()), {}
        for holder in holders:
            await holder.aclose()

    # Where to

    def _about(self, request: object) -> str:
        """The notebook that a call is about; "" for none, which stays where one asks first."""
        if self._presence is not None:
            return self._presence.notebook_id
        return str(getattr(request, "notebook_id", ""))

    def _where(self, about: str) -> Endpoint:
        return self._routes.find(about) or self.endpoint

    def _follow(self, said: NotOwner, about: str, by: Endpoint) -> None:
        """Another controller has the notebook. Raises where it cannot be asked."""
        found = target(self.endpoint, by, said)
        if found.name == self.endpoint.name:
            self._routes.forget(about, by)
        else:
            self._routes.note(about, found)

    # Connections

    async def _ready(self, where: Endpoint, *, start: bool = True) -> Connection:
        connection = self._connections.get(where.name)
        if connection is not None and connection.usable():
            return connection
        _fork.check(_io_async.FLAVOUR)
        async with self._lock(where):
            connection = self._connections.get(where.name)
            if connection is None or not connection.usable():
                connection = await self._establish(where, start)
                self._connections[where.name] = connection
            return connection

    async def _establish(self, where: Endpoint, start: bool) -> Connection:
        if not where.own or not start:
            require_listener(where)
        elif not embedded.running(where):
            await _io_async.in_thread(embedded.ensure, where)
        holder = hold(where, self._presence)
        connection = await anext(holder)
        self._check(connection.hello, where)
        self._holders[where.name] = holder
        # A session is in one place. Of those that are about many notebooks, the oldest connections go.
        home, most = self.endpoint.name, 0 if self._presence is not None else _MOST_AWAY
        others = [name for name in list(self._holders) if name != where.name and (name != home or not most)]
        for name in others[: max(0, len(others) - most)]:
            self._connections.pop(name, None)
            self._holders.pop(name, None)
        return connection

    def _check(self, said: sessions_pb2.HelloResponse, where: Endpoint) -> None:
        if said.protocol != PROTOCOL:
            raise ControllerUnavailable(
                f"the controller at {where.name} (version {said.server_version}) speaks protocol"
                f" {said.protocol}, and this client (version {VERSION}) speaks {PROTOCOL}: use matching versions"
            )
        met = self._met or said
        if said.controller_id != met.controller_id and not (said.node and met.node):
            # Its notebooks and request ids are others: repeating a call there could run code a second time. Those of
            # nodes are in the store that they share.
            raise ControllerUnavailable(f"another controller answers at {where.name} than before: connect anew")
        self._met = said

    def _drop(self, where: Endpoint, connection: Connection | None) -> None:
        if connection is not None and self._connections.get(where.name) is connection:
            del self._connections[where.name]

    # Breaks and redirects

    async def _mend(
        self, error: Exception, about: str, where: Endpoint, connection: Connection | None, healing: Healing
    ) -> None:
        """Returns when the call may be tried again; raises where that does not help."""
        if not self._open:
            raise NotConnected(CLOSED) from None
        failure, broken = self._failure(error, where, connection)
        await _io_async.sleep(self._again(failure, broken, about, where, connection, healing))

    def _failure(self, error: Exception, where: Endpoint, connection: Connection | None) -> tuple[CellyardError, bool]:
        """What went wrong, and whether trying again may help. Raises what is no failure of a call."""
        if isinstance(error, grpc.RpcError):
            failure, broken = translate(error, where.name)
        elif isinstance(error, CellyardError):
            failure, broken = error, isinstance(error, ControllerUnavailable) and error.retryable
        else:
            raise error
        if where == self.endpoint:
            return failure, broken
        if isinstance(failure, Unauthenticated):
            message = f"{failure} by the controller at {where.name}, to which {self.endpoint.name} redirects"
            return Unauthenticated(message, details=failure.details), False
        # Who does not take a connection in time is as good as gone: others may know who has its notebooks now.
        gone = connection is None and isinstance(failure, ControllerUnavailable) and failure.retryable
        return failure, broken or gone

    def _again(
        self,
        failure: CellyardError,
        broken: bool,
        about: str,
        where: Endpoint,
        connection: Connection | None,
        healing: Healing,
    ) -> float:
        """Seconds to wait before trying again; raises where that does not help, or was done for long enough."""
        if isinstance(failure, NotOwner) and about:
            self._follow(failure, about, where)
            if self._presence is not None:
                self._drop(where, connection)
            pause = healing.next_hop(time.monotonic())
            if pause is None:
                raise ControllerUnavailable(
                    self._not_found(about, where, healing), retryable=True, details=failure.details
                )
            return pause
        if not broken:
            raise failure from None
        self._drop(where, connection)
        self._routes.forget(about, where)  # the one that was asked first knows who has it next
        pause = healing.next_pause(time.monotonic(), failure.details.get("retry_after_s", 0.0))
        if pause is None:
            raise ControllerUnavailable(
                f"the connection to {where.name} broke and did not come back within {self.reconnect_s:g} s: {failure}",
                retryable=True,
                details=failure.details,
            ) from None
        return pause

    def _not_found(self, about: str, by: Endpoint, healing: Healing) -> str:
        to = self._where(about).name
        if healing.hops > MAX_HOPS:
            return (
                f"{MAX_HOPS} redirects in a row have not led to the controller that has notebook {about!r}: "
                f"the last was from {by.name} to {to}"
            )
        return f"notebook {about!r} is said to be at {to}, where it was not found within {self.reconnect_s:g} s"

    def _lock(self, where: Endpoint) -> _io_async.Lock:
        owner = _io_async.owner()
        if self._lock_owner not in (None, owner):
            self._locks = {}  # the old ones belong to an event loop or a process that is gone
        self._lock_owner = owner
        return self._locks.setdefault(where.name, _io_async.Lock())


def _broken(why: str) -> ControllerUnavailable:
    return ControllerUnavailable(why, retryable=True)


def _timed_out(error: Exception) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
