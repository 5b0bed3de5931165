"""Who may do what: tokens on TCP, the operator on the unix socket, tenants apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellyard_controller.api.server import CannotListen
from cellyard_controller.app import Controller
from cellyard_controller.config import Config
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import sessions_pb2 as se
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard


class Tcp:
    """A controller on a unix socket and on loopback TCP."""

    def __init__(self, operator: Stubs, target: str) -> None:
        self.operator, self.target = operator, target
        self.channels: list[grpc.aio.Channel] = []

    async def tenant(self, name: str) -> tuple[Stubs, tuple[tuple[str, str], ...]]:
        """A new tenant over TCP, and the metadata that its calls carry."""
        created = await self.operator.tenants.Create(te.CreateTenant(name=name))
        return self.connect(), (("authorization", f"Bearer {created.token}"),)

    def connect(self) -> Stubs:
        channel = grpc.aio.insecure_channel(self.target)
        self.channels.append(channel)
        return Stubs(channel)


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    folder = yard.folder
    stubs = await yard.start(listen=(f"unix:{folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


def reason(failed: grpc.aio.AioRpcError) -> str:
    from google.rpc import error_details_pb2, status_pb2

    trailer = dict(failed.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(trailer).details[0].Unpack(info)
    assert info.domain == "cellyard"
    return info.reason


async def test_a_missing_and_a_wrong_token_answer_alike(tcp: Tcp) -> None:
    stubs = tcp.connect()
    seen = []
    for metadata in ((), (("authorization", "Bearer cy_wrong"),), (("authorization", "nonsense"),)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.sessions.Hello(se.HelloRequest(protocol=1), metadata=metadata)
        seen.append((refused.value.code(), refused.value.details(), reason(refused.value)))
    assert set(seen) == {(grpc.StatusCode.UNAUTHENTICATED, "authentication failed", "UNAUTHENTICATED")}


async def test_another_tenants_notebook_does_not_exist(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    bob, as_bob = await tcp.tenant("bob")
    created = nb.CreateCellRequest(notebook_id="nb", cell_id="c", cell_type="code", source="secret")
    await alice.notebooks.CreateCell(created, metadata=as_alice)
    with pytest.raises(grpc.aio.AioRpcError, match="not found") as refused:
        await bob.notebooks.GetCell(nb.GetCellRequest(notebook_id="nb", cell_id="c"), metadata=as_bob)
    assert reason(refused.value) == "NOTEBOOK_NOT_FOUND"
    listed = await bob.notebooks.List(nb.ListNotebooks(), metadata=as_bob)
    assert not listed.notebooks


async def test_a_tenant_sees_its_own_sandboxes_and_the_operator_all(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    bob, as_bob = await tcp.tenant("bob")
    start = ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="c", source="value 1"))
    async for _ in alice.executions.Execute(start, metadata=as_alice):
        pass
    mine = (await alice.sandboxes.List(sb.ListSandboxes(), metadata=as_alice)).sandboxes
    assert [(each.notebook_id, each.tenant) for each in mine] == [("nb", "alice")]
    assert not (await bob.sandboxes.List(sb.ListSandboxes(), metadata=as_bob)).sandboxes
    await bob.sandboxes.Stop(sb.StopSandbox(sandbox_id=mine[0].sandbox_id), metadata=as_bob)
    assert len((await tcp.operator.sandboxes.List(sb.ListSandboxes())).sandboxes) == 1


async def test_only_the_operator_administers(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await alice.tenants.Create(te.CreateTenant(name="carol"), metadata=as_alice)
    assert reason(refused.value) == "PERMISSION_DENIED"


async def test_a_revoked_token_is_void_at_once_for_open_streams_too(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    attached = alice.sessions.Attach(se.AttachSession(notebook_id="nb", session_id="s"), metadata=as_alice)
    assert await attached.read() is not grpc.aio.EOF
    await tcp.operator.tenants.Revoke(te.RevokeTenant(name="alice"))
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await attached.read()
    assert reason(ended.value) == "UNAUTHENTICATED"
    with pytest.raises(grpc.aio.AioRpcError):
        await alice.sessions.Hello(se.HelloRequest(protocol=1), metadata=as_alice)


async def test_the_process_runtime_is_for_the_operator_alone(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    start = ker.StartKernel(notebook_id="nb", settings=ker.KernelSettings(runtime="process"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in alice.kernels.Start(start, metadata=as_alice):
            pass
    assert reason(refused.value) == "PERMISSION_DENIED"


async def test_another_protocol_is_refused_with_a_sentence(stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="protocol 2"):
        await stubs.sessions.Hello(se.HelloRequest(protocol=2))


def settings(folder: Path, listen: str, **more: Any) -> Config:
    return Config(data=folder / "data", listen=(listen,), **more)


@pytest.mark.parametrize(
    ("listen", "says", "usage"),
    [
        ("0.0.0.0:0", "reachable from other machines", True),
        ("unix:/tmp/" + "x" * 120, "107", True),
        ("nowhere", "unix:PATH or HOST:PORT", True),
        ("unix:/proc/none/c.sock", "cannot make the folder", False),
    ],
)
async def test_an_address_that_cannot_be_is_refused(folder: Path, listen: str, says: str, usage: bool) -> None:
    controller = Controller(settings(folder, listen), lambda _config, _id: {})
    with pytest.raises(CannotListen, match=says) as refused:
        await controller.start()
    assert refused.value.usage is usage


async def test_a_data_folder_serves_one_controller_at_a_time(yard: Yard) -> None:
    await yard.start()
    second = Controller(settings(yard.folder, f"unix:{yard.folder}/d.sock"), lambda _config, _id: {})
    with pytest.raises(CannotListen, match="in use by another controller"):
        await second.start()
