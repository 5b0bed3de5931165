"""Bytes that are no message of the protocol: refused like any other bad request, instead of failing inside gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cellyard_controller.errors import InvalidRequest

_OURS = ("/cellyard.", "/grpc.reflection.")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a request that cannot be read."""

    method: str
    why: str

    def refusal(self) -> InvalidRequest:
        """What its sender is told."""
        return InvalidRequest(f"the request of {self.method} cannot be read: {self.why}")


class ReadsAnything(grpc.aio.ServerInterceptor):
    """Has our methods get all that comes as a stream of messages, with an `Unreadable` for bytes that are none.

    The methods that take one message too: gRPC would read it before it calls them, so before anybody has asked who
    sends it, and would wait for it without an end; a call without a message would never be answered.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, with a reader that does not fail."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(_OURS):
                return handler
            read = _reader(method.rpartition("/")[2], handler.request_deserializer)
            handler = self._handlers[method] = handler._replace(
                request_deserializer=read,
                request_streaming=True,
                stream_unary=handler.stream_unary or handler.unary_unary,
                stream_stream=handler.stream_stream or handler.unary_stream,
                unary_unary=None,
                unary_stream=None,
            )
        return handler


def _reader(method: str, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_anything(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError as bad:
            return Unreadable(method, str(bad))

    return read_anything
