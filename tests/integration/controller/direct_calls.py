"""Calls of a controller's methods without a connection: as they stand behind gRPC's transport, and as many as it takes.

What gRPC does in between is done here too: bytes are read by the method's own reader, answers are written to bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2

from cellyard_controller.api.unreadable import ReadsAnything
from cellyard_controller.app import Controller
from cellyard_proto.v1 import errors_pb2

FEW = 3
"""Messages of an answer that are read before the caller goes."""


@dataclass(frozen=True)
class Method:
    """One method: its path, its request, and how it is called."""

    path: str
    message: Any
    takes_many: bool
    handler: Any


@dataclass
class Server:
    """Takes services as a gRPC server does."""

    handlers: dict[str, Any] = field(default_factory=dict)

    def add_generic_rpc_handlers(self, services: Sequence[Any]) -> None:
        for service in services:
            self.handlers.update(service._method_handlers)

    def add_registered_method_handlers(self, _service: str, _handlers: Any) -> None:
        """They came above."""


@dataclass(frozen=True)
class Details:
    """What an interceptor is told of a call."""

    method: str
    invocation_metadata: tuple[Any, ...] = ()


class Aborted(Exception):
    """A call was refused."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: Sequence[tuple[str, bytes]]) -> None:
        super().__init__(code, details)
        self.code, self.details, self.trailers = code, details, dict(trailers)

    @property
    def reason(self) -> str:
        """The reason of a refusal as the protocol describes it; empty for one that is none."""
        packed = self.trailers.get("grpc-status-details-bin")
        if packed is None:
            return ""
        status, info = status_pb2.Status.FromString(packed), error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        assert f"ERROR_REASON_{info.reason}" in errors_pb2.ErrorReason.keys()  # noqa: SIM118 - no mapping
        return info.reason if info.domain == "cellyard" and status.message else ""


class Context:
    """A call of the operator's, over a unix socket."""

    def peer(self) -> str:
        return "unix:"

    def invocation_metadata(self) -> tuple[Any, ...]:
        return ()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        raise Aborted(code, details, trailing_metadata)


async def methods_of(controller: Controller) -> list[Method]:
    """Every method that a controller serves."""
    server = Server()
    theirs, controller._server.grpc = controller._server.grpc, cast("Any", server)
    controller._add_services()
    controller._server.grpc = theirs
    found, reads = [], ReadsAnything()
    for path, handler in sorted(server.handlers.items()):

        async def served(_details: Any, handler: Any = handler) -> Any:
            return handler

        service, _, name = path.removeprefix("/").rpartition("/")
        described = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
        message = message_factory.GetMessageClass(described.input_type)
        ready = await reads.intercept_service(served, cast("Any", Details(path)))
        found.append(Method(path, message, described.client_streaming, ready))
    return found


async def call(method: Method, contents: Sequence[bytes]) -> int:
    """Sends these messages and reads the first few of the answer; returns how many came. Raises Aborted."""

    async def messages() -> AsyncIterator[Any]:
        for content in contents:
            yield method.handler.request_deserializer(content)

    if method.handler.stream_unary is not None:
        answer = await method.handler.stream_unary(messages(), Context())
        assert method.handler.response_serializer(answer) is not None
        return 1
    count = 0
    async with aclosing(method.handler.stream_stream(messages(), Context())) as answers:
        async for each in answers:
            assert method.handler.response_serializer(each) is not None
            count += 1
            if count == FEW:
                break
    return count


async def call_within(seconds: float, method: Method, contents: Sequence[bytes]) -> int:
    """The same; a call that waits for something to happen is ended after that time."""
    try:
        async with asyncio.timeout(seconds):
            return await call(method, contents)
    except TimeoutError:
        return 0
