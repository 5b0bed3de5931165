"""A client without any .proto file: it asks what there is, builds the messages from the answer, and calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as rf

from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard

CURRENT = "grpc.reflection.v1.ServerReflection"
OLDER = "grpc.reflection.v1alpha.ServerReflection"


class Reflected:
    """What a server tells of itself, and calls made from that alone."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None = None, name: str = CURRENT) -> None:
        self._channel, self._name = channel, name
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.pool = DescriptorPool()

    async def ask(self, **question: str) -> rf.ServerReflectionResponse:
        """One question, on a stream of its own."""
        method: Any = self._channel.stream_stream(
            f"/{self._name}/ServerReflectionInfo",
            request_serializer=rf.ServerReflectionRequest.SerializeToString,
            response_deserializer=rf.ServerReflectionResponse.FromString,
        )

        async def questions() -> AsyncIterator[rf.ServerReflectionRequest]:
            yield rf.ServerReflectionRequest(**question)

        answers = [answer async for answer in method(questions(), metadata=self._metadata, timeout=60)]
        assert len(answers) == 1
        return answers[0]

    async def services(self) -> set[str]:
        """Names of all services."""
        answer = await self.ask(list_services="")
        return {each.name for each in answer.list_services_response.service}

    async def learn(self, symbol: str) -> None:
        """Takes in the files that a symbol needs."""
        answer = await self.ask(file_containing_symbol=symbol)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(each)
            for each in answer.file_descriptor_response.file_descriptor_proto
        ]
        missing = {file.name: file for file in files}
        while missing:  # a file after those that it imports
            name = next(name for name, file in missing.items() if not missing.keys() & set(file.dependency))
            self.pool.Add(missing.pop(name))

    def call(self, service: str, method: str, **fields: Any) -> Any:
        """Calls a method whose answer is one message, or a stream of them."""
        described = self.pool.FindServiceByName(service).methods_by_name[method]
        request = message_factory.GetMessageClass(described.input_type)(**fields)
        kind = self._channel.unary_stream if described.server_streaming else self._channel.unary_unary
        return kind(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(described.output_type).FromString,
        )(request, metadata=self._metadata, timeout=60)


async def _serve(yard: Yard, **config: Any) -> tuple[Stubs, str]:
    """The operator's services, and the address on TCP."""
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"), **config)
    return stubs, yard.controller.addresses[1]


@pytest.mark.parametrize("name", [CURRENT, OLDER])
async def test_code_runs_for_a_client_that_had_no_proto_files(yard: Yard, name: str) -> None:
    operator, address = await _serve(yard, reflection=True)
    token = (await operator.tenants.Create(te.CreateTenant(name="alice"))).token
    async with grpc.aio.insecure_channel(address) as channel:
        server = Reflected(channel, token, name)
        services = await server.services()
        assert {"cellyard.v1.Executions", "cellyard.v1.Notebooks", "grpc.health.v1.Health", CURRENT, OLDER} <= services
        for service in sorted(services - {CURRENT, OLDER}):
            assert (await server.ask(file_containing_symbol=service)).HasField("file_descriptor_response")
        await server.learn("cellyard.v1.Executions")

        told = server.call(
            "cellyard.v1.Executions",
            "Execute",
            notebook_id="nb",
            request_id="r",
            source={"cell_id": "c", "source": "value 42"},
        )
        events = [event async for event in told]
        assert events[-1].finished.value.json == "42"


async def test_what_is_not_there_is_said_and_garbage_ends_nothing(yard: Yard) -> None:
    operator, _ = await _serve(yard, reflection=True)
    server = Reflected(operator.channel)
    for question in ({"file_containing_symbol": "no.Such"}, {"file_by_filename": "/etc/passwd"}):
        assert (await server.ask(**question)).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    garbage: Any = operator.channel.stream_stream(f"/{CURRENT}/ServerReflectionInfo")

    async def bytes_that_are_no_message() -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in garbage(bytes_that_are_no_message(), timeout=60):
            pass
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await server.services()


async def test_it_is_off_unless_it_is_switched_on(yard: Yard) -> None:
    operator, _ = await _serve(yard)
    for name in (CURRENT, OLDER):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Reflected(operator.channel, name=name).services()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_over_tcp_it_needs_a_token_like_everything_else(yard: Yard) -> None:
    _, address = await _serve(yard, reflection=True)
    async with grpc.aio.insecure_channel(address) as channel:
        for token in (None, "wrong"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await Reflected(channel, token).services()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
