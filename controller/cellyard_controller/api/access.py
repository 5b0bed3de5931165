"""Wraps every method of every service: who calls, may they, and what they are told where something goes wrong."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol, TypeVar

import grpc

from cellyard_controller.api.accounting import Failure, accounted
from cellyard_controller.api.auditing import Noted, administers
from cellyard_controller.api.callers import Access, Caller, Context
from cellyard_controller.api.status import abort
from cellyard_controller.errors import Refused

__all__ = ["Access", "Caller", "duplex", "intake", "stream", "unary"]

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)
_Item = TypeVar("_Item")


class Guarded(Protocol):
    """A servicer whose methods are wrapped by `unary` and `stream`."""

    access: Access


def unary(
    method: Callable[[Any, Any, Caller], Awaitable[_Response]],
) -> Callable[[Any, Any, Context], Awaitable[_Response]]:
    """A method `(request, caller) -> response` as a gRPC method."""
    name = method.__qualname__

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> _Response:
        began = time.monotonic()
        async with _refusing(self.access, name, context) as noted:
            caller, arrivals = _caller(self.access, name, context, noted), self.access.arrivals
            with arrivals.call(caller.tenant):
                request = await arrivals.one(requests, caller.tenant, method.__name__)
                noted.about(request)
                response = await method(self, request, caller)
            noted.done(response)
            if administers(name):
                await self.access.audit.flush()
        self.access.calls.answered(name, began)
        return response

    return call


def stream(
    method: Callable[[Any, Any, Caller], AsyncIterator[_Response]],
) -> Callable[[Any, Any, Context], AsyncIterator[_Response]]:
    """A method `(request, caller) -> async iterator` as a gRPC method."""
    name = method.__qualname__

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[_Response]:
        async with _refusing(self.access, name, context) as noted:
            caller, arrivals = _caller(self.access, name, context, noted), self.access.arrivals
            with arrivals.call(caller.tenant), self.access.stream(caller):
                request = await arrivals.one(requests, caller.tenant, method.__name__)
                noted.about(request)
                async for item in method(self, request, caller):
                    noted.done(item)
                    yield item
            noted.done()

    return call


def duplex(
    method: Callable[[Any, AsyncIterator[Any], Caller], AsyncGenerator[_Item, None]],
) -> Callable[[Any, AsyncIterator[Any], Context], AsyncIterator[_Item]]:
    """A method `(requests, caller) -> async generator` as a gRPC method; it is closed when the client goes."""
    name = method.__qualname__

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[_Item]:
        async with _refusing(self.access, name, context) as noted:
            caller, arrivals = _caller(self.access, name, context, noted), self.access.arrivals
            with arrivals.call(caller.tenant), arrivals.feed(caller.tenant), self.access.stream(caller):
                messages = arrivals.all(requests, caller.tenant, method.__name__)
                async with aclosing(method(self, _Overheard(messages, noted), caller)) as items:
                    async for item in items:
                        noted.done(item)
                        yield item
            noted.done()

    return call


def intake(
    method: Callable[[Any, AsyncIterator[Any], Caller], Awaitable[_Response]],
) -> Callable[[Any, AsyncIterator[Any], Context], Awaitable[_Response]]:
    """A method `(requests, caller) -> response` as a gRPC method."""
    name = method.__qualname__

    @functools.wraps(method)
    async def call(self: Guarded, requests: AsyncIterator[Any], context: Context) -> _Response:
        async with _refusing(self.access, name, context) as noted:
            caller, arrivals = _caller(self.access, name, context, noted), self.access.arrivals
            with arrivals.call(caller.tenant), arrivals.feed(caller.tenant), self.access.stream(caller):
                messages = _Overheard(arrivals.all(requests, caller.tenant, method.__name__), noted)
                response = await method(self, messages, caller)
            noted.done(response)
        return response

    return call


class _Overheard:
    """A client's messages; the first one is noted, because it says what the call is about."""

    def __init__(self, messages: AsyncIterator[Any], noted: Noted) -> None:
        self._messages, self._noted, self._first = aiter(messages), noted, True

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        if self._first:
            self._first = False
            self._noted.about(message)
        return message


def _caller(access: Access, name: str, context: Context, noted: Noted) -> Caller:
    noted.caller = caller = access.caller(context)
    access.admit(caller, name)
    return caller


@asynccontextmanager
async def _refusing(access: Access, name: str, context: Context) -> AsyncIterator[Noted]:
    """Ends the call with a status where something is refused or goes wrong, and notes it."""
    noted = Noted(access.audit, name, context)
    try:
        async with accounted(access, name, noted, tuple(context.invocation_metadata() or ())):
            yield noted
    except Refused as refused:
        await abort(context, refused)
    except Failure:
        await context.abort(grpc.StatusCode.INTERNAL, "internal error; the controller's log says more")
