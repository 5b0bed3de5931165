"""Who calls: a tenant, proven by a token, or the operator over a unix socket. Wraps every method of every service."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
import structlog

from cellyard_controller.api.arrivals import Arrivals
from cellyard_controller.api.status import abort
from cellyard_controller.errors import PermissionDenied, Refused, Stopping, Unauthenticated, Unavailable
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.tenants import tokens

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how they came."""

    tenant: TenantName
    over_unix: bool

    @property
    def operator(self) -> bool:
        """The operator: over a unix socket, without a token."""
        return self.tenant == LOCAL and self.over_unix

    def must_be_operator(self) -> None:
        """Raises PermissionDenied for everybody else."""
        if not self.operator:
            raise PermissionDenied("only the operator may do this, over a unix socket without a token")


class Access:
    """Tokens in force, and the streams that are open under them."""

    def __init__(self, store: Store, arrivals: Arrivals) -> None:
        self._store = store
        self.arrivals = arrivals
        self._tenants: dict[bytes, TenantName] = {}
        self._streams: dict[TenantName, set[asyncio.Task[Any]]] = {}
        self.stopping = asyncio.Event()
        """Set when the controller goes: new calls are refused, idle streams end."""

    async def load(self) -> None:
        """Reads the tokens in force; streams of tenants that have none left are ended."""
        self._tenants = await self._store.read(tokens.in_force)
        valid = {LOCAL, *self._tenants.values()}
        for tenant, streams in self._streams.items():
            if tenant not in valid:
                for stream in streams:
                    stream.cancel()

    def caller(self, context: Context) -> Caller:
        """Who calls. Raises Stopping, Unauthenticated; a wrong token and a missing one answer alike."""
        if self.stopping.is_set():
            raise Stopping("the controller is stopping")
        over_unix = context.peer().startswith("unix:")
        given = None
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                given = value
        if given is None:
            if over_unix:
                return Caller(LOCAL, over_unix)
            raise Unauthenticated
        text = given if isinstance(given, str) else given.decode("latin-1")
        scheme, _, token = text.partition(" ")
        if scheme.lower() != "bearer" or len(token) > tokens.MAX_TOKEN:
            raise Unauthenticated
        tenant = self._tenants.get(tokens.digest(token))
        if tenant is None:
            raise Unauthenticated
        return Caller(tenant, over_unix)

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """While a stream is open it can be ended by revoking the tenant."""
        task = asyncio.current_task()
        assert task is not None
        streams = self._streams.setdefault(caller.tenant, set())
        streams.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if caller.tenant != LOCAL and caller.tenant not in self._tenants.values():
                raise Unauthenticated from None
            raise
        finally:
            streams.discard(task)


class Guarded(Protocol):
    """A servicer whose methods are wrapped by `unary` and `stream`."""

    access: Access


def unary(
    method: Callable[[Any, Any, Caller], Awaitable[_Response]],
) -> Callable[[Any, Any, Context], Awaitable[_Response]]:
    """A method `(request, caller) -> response` as a gRPC method."""

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> _Response:
        try:
            caller, arrivals = self.access.caller(context), self.access.arrivals
            with arrivals.call(caller.tenant):
                request = await arrivals.one(requests, caller.tenant, method.__name__)
                return await method(self, request, caller)
        except (Refused, StoreFailed) as refused:
            await abort(context, _refusal(refused))
        except Exception:
            log.exception("a call failed", method=method.__qualname__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; the controller's log says more")

    return call


def stream(
    method: Callable[[Any, Any, Caller], AsyncIterator[_Response]],
) -> Callable[[Any, Any, Context], AsyncIterator[_Response]]:
    """A method `(request, caller) -> async iterator` as a gRPC method."""

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[_Response]:
        try:
            caller, arrivals = self.access.caller(context), self.access.arrivals
            with arrivals.call(caller.tenant), self.access.stream(caller):
                request = await arrivals.one(requests, caller.tenant, method.__name__)
                async for item in method(self, request, caller):
                    yield item
        except (Refused, StoreFailed) as refused:
            await abort(context, _refusal(refused))
        except Exception:
            log.exception("a call failed", method=method.__qualname__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; the controller's log says more")

    return call


def duplex(
    method: Callable[[Any, AsyncIterator[Any], Caller], AsyncGenerator[_Item, None]],
) -> Callable[[Any, AsyncIterator[Any], Context], AsyncIterator[_Item]]:
    """A method `(requests, caller) -> async generator` as a gRPC method; it is closed when the client goes."""

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[_Item]:
        try:
            caller, arrivals = self.access.caller(context), self.access.arrivals
            with arrivals.call(caller.tenant), arrivals.feed(caller.tenant), self.access.stream(caller):
                messages = arrivals.all(requests, caller.tenant, method.__name__)
                async with aclosing(method(self, messages, caller)) as items:
                    async for item in items:
                        yield item
        except (Refused, StoreFailed) as refused:
            await abort(context, _refusal(refused))
        except Exception:
            log.exception("a call failed", method=method.__qualname__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; the controller's log says more")

    return call


def _refusal(failed: Refused | StoreFailed) -> Refused:
    return failed if isinstance(failed, Refused) else Unavailable(str(failed))
