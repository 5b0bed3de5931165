"""Wraps every method of every service: who calls, may they, and what they are told where something goes wrong."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import grpc
import structlog

from cellyard_controller.api.callers import Access, Caller, Context
from cellyard_controller.api.status import abort
from cellyard_controller.api.unreadable import Unreadable
from cellyard_controller.errors import Refused, Unavailable
from cellyard_controller.store import StoreFailed

__all__ = ["Access", "Caller", "duplex", "stream", "unary"]

log = structlog.get_logger()

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

    @functools.wraps(method)
    async def call(self: Guarded, request: Any, context: Context) -> _Response:
        try:
            if isinstance(request, Unreadable):
                raise request.refusal()
            return await method(self, request, self.access.caller(context, method.__qualname__))
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
    async def call(self: Guarded, request: Any, context: Context) -> AsyncIterator[_Response]:
        try:
            if isinstance(request, Unreadable):
                raise request.refusal()
            caller = self.access.caller(context, method.__qualname__)
            with self.access.stream(caller):
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
            caller = self.access.caller(context, method.__qualname__)
            with self.access.stream(caller):
                async with aclosing(method(self, requests, caller)) as items:
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
