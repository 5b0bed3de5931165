"""Which services and messages there are, told to clients that have no .proto files. Off unless it is switched on.

What it tells is what the .proto files say, and those are public; it needs a token all the same, as every call does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from cellyard_controller.api.access import Access, Caller, duplex

_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""The same messages under both names; clients ask for the first, older ones for the second."""


class Reflection:
    """The service `ServerReflection`."""

    def __init__(self, access: Access, services: Iterable[str]) -> None:
        """`services`: the names of those that there are besides it and health checks."""
        self.access = access
        self._answers = aio.ReflectionServicer([*services, health.SERVICE_NAME, *_NAMES])

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answers on this server."""
        method = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        for name in _NAMES:
            handlers = {"ServerReflectionInfo": method}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    @duplex
    async def ServerReflectionInfo(  # noqa: N802, as gRPC calls it
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], caller: Caller
    ) -> AsyncGenerator[reflection_pb2.ServerReflectionResponse, None]:
        """Answers each question about a file, a symbol, or what there is."""
        async for answer in self._answers.ServerReflectionInfo(requests, None):
            yield answer
