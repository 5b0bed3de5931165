"""Another tenant's ids are unknown ids: every method is called with both, and answers alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import files_pb2_grpc, processes_pb2_grpc
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sandboxes_pb2 as sb

from .conftest import Stubs, Yard
from .test_access import Tcp, reason

SERVICES = ("Notebooks", "Executions", "Kernels", "Files", "Processes", "Sessions", "Sandboxes")
WHATEVER = {
    "path": "f",
    "size": 1,
    "key": "k",
    "value": "v",
    "cell_type": "code",
    "code": "x",
    "argv": ["true"],
    "call_id": "call",
    "text": "t",
    "session_id": "s",
    "protocol": 1,
    "content": b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
}
METHODS = [
    f"{service}.{method.name}"
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(f"cellyard.v1.{service}").methods
]


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


def filled(message: Message, ids: dict[str, Any]) -> Message:
    """A request in which whatever names something names this."""
    for field in message.DESCRIPTOR.fields:
        if field.name in ids:
            given = ids[field.name]
            if field.is_repeated:
                getattr(message, field.name).extend(given)
            elif field.type != field.TYPE_MESSAGE and field.containing_oneof is None:
                setattr(message, field.name, given)
        elif field.name in ("begin", "start", "open"):
            filled(getattr(message, field.name), ids)
            getattr(message, field.name).SetInParent()
    return message


class Services:
    """Everything that can be called on one channel."""

    def __init__(self, stubs: Stubs, secrets: list[str]) -> None:
        """`secrets`: what no answer may tell."""
        self._stubs, self.secrets = stubs, secrets
        self._more = {
            "Files": files_pb2_grpc.FilesStub(stubs.channel),
            "Processes": processes_pb2_grpc.ProcessesStub(stubs.channel),
        }

    async def answer(self, method: str, ids: dict[str, Any], metadata: Any) -> tuple[str, str]:
        """What a method says to a request about these ids, the ids themselves left out."""
        service, _, name = method.partition(".")
        described = descriptor_pool.Default().FindServiceByName(f"cellyard.v1.{service}").FindMethodByName(name)
        request = filled(message_factory.GetMessageClass(described.input_type)(), ids)
        stub = self._more.get(service) or getattr(self._stubs, service.lower())
        argument: Any = iter([request]) if described.client_streaming else request
        call = getattr(stub, name)(argument, metadata=metadata, timeout=10)
        try:
            first = await call.read() if described.server_streaming else await call
            if first is grpc.aio.EOF:
                await call.code()
            call.cancel()
        except grpc.aio.AioRpcError as failed:
            if failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return "ok", "nothing"  # it tells of what happens, and nothing does
            said = str(failed.details())
            for given in ids.values():
                said = said.replace(str(given), "ID") if isinstance(given, str) and len(given) > 4 else said
            return reason(failed), said
        assert not [secret for secret in self.secrets if secret in str(first)]
        return "ok", type(first).__name__


async def state(alice: Stubs, metadata: Any) -> list[Any]:
    """All that alice has."""
    notebook = {"notebook_id": "alices-notebook"}
    listed = await alice.notebooks.List(nb.ListNotebooks(), metadata=metadata)
    return [
        [each.notebook_id for each in listed.notebooks],
        await alice.notebooks.ListCells(nb.ListCellsRequest(**notebook), metadata=metadata),
        await alice.executions.List(ex.ListExecutions(**notebook), metadata=metadata),
        [each.sandbox_id for each in (await alice.sandboxes.List(sb.ListSandboxes(), metadata=metadata)).sandboxes],
    ]


async def test_every_method_takes_anothers_ids_for_unknown_ones(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    bob, as_bob = await tcp.tenant("bob")
    start = ex.Start(
        notebook_id="alices-notebook", source=ex.NewCell(cell_id="alices-cell", source=f"html {'x' * 100_000}")
    )
    execution_id = ""
    async for event in alice.executions.Execute(start, metadata=as_alice):
        execution_id = execution_id or event.accepted.execution_id
    get = ex.GetExecution(notebook_id="alices-notebook", execution_id=execution_id)
    shown = (await alice.executions.Get(get, metadata=as_alice)).outputs[0].display_data.data["text/html"]
    (sandbox,) = (await alice.sandboxes.List(sb.ListSandboxes(), metadata=as_alice)).sandboxes
    digest = shown.blob.digest
    assert digest
    hers = {
        "cell_id": "alices-cell",
        "execution_id": execution_id,
        "before_execution_id": execution_id,
        "digest": digest,
        "sandbox_id": sandbox.sandbox_id,
    }
    nobodys = {
        "cell_id": "nobodys-cell",
        "execution_id": "exec-nobodys",
        "before_execution_id": "exec-nobodys",
        "digest": "sha256:" + "0" * 64,
        "sandbox_id": "sb-nobodys",
    }
    before = await state(alice, as_alice)
    services, different = Services(bob, [sandbox.sandbox_id, sandbox.container_id, execution_id]), []

    async def fresh(*notebooks: str) -> None:
        """Bob has no such notebooks."""
        for notebook in notebooks:
            with suppress(grpc.aio.AioRpcError):
                await bob.notebooks.Delete(nb.DeleteNotebook(notebook_id=notebook), metadata=as_bob)

    for method in METHODS:
        await fresh("alices-notebook", "nobodys-notebook", "bobs-notebook")
        cell = nb.CreateCellRequest(notebook_id="bobs-notebook", cell_id="c", source="x")
        await bob.notebooks.CreateCell(cell, metadata=as_bob)
        for notebooks in (("alices-notebook", "nobodys-notebook"), ("bobs-notebook", "bobs-notebook")):
            answers = [
                await services.answer(method, {**WHATEVER, **ids, "notebook_id": notebook}, as_bob)
                for ids, notebook in zip((hers, nobodys), notebooks, strict=True)
                if method != "Notebooks.Delete" or notebook != "bobs-notebook"
            ]
            if len(set(answers)) > 1:
                different.append((method, answers))
    await fresh("alices-notebook", "nobodys-notebook", "bobs-notebook")
    assert different == []
    assert await state(alice, as_alice) == before
