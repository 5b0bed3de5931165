"""Tokens over the wire: scopes, rotation, expiry and revocation, for open streams too; quotas and who may ask."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool

from cellyard_controller.api import scopes
from cellyard_controller.tenants.quotas import Quota
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import sessions_pb2 as se
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard
from .test_access import Tcp, reason

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


async def issue(tcp: Tcp, tenant: str, **grant: object) -> tuple[str, Metadata]:
    """Another token: its id, and the metadata that calls carry with it."""
    request = te.IssueTokenRequest(tenant=tenant, grant=te.TokenGrant(**grant))
    issued = await tcp.operator.tenants.IssueToken(request)
    return issued.token_id, (("authorization", f"Bearer {issued.token}"),)


async def hello(stubs: Stubs, metadata: Metadata) -> str:
    """The tenant that this metadata proves, or why it proves none."""
    try:
        return str((await stubs.sessions.Hello(se.HelloRequest(protocol=1), metadata=metadata)).tenant)
    except grpc.aio.AioRpcError as refused:
        return reason(refused)


async def cell(stubs: Stubs, metadata: Metadata, name: str = "c") -> None:
    await stubs.notebooks.CreateCell(
        nb.CreateCellRequest(notebook_id="nb", cell_id=name, source="x"), metadata=metadata
    )


async def test_a_token_is_replaced_without_a_gap(tcp: Tcp) -> None:
    alice, old = await tcp.tenant("alice")
    new_id, new = await issue(tcp, "alice", name="2nd")
    assert [await hello(alice, each) for each in (old, new)] == ["alice", "alice"]
    first, second = (await tcp.operator.tenants.ListTokens(te.ListTokensRequest(tenant="alice"))).tokens
    assert (second.token_id, second.name, second.scope) == (new_id, "2nd", "full")
    assert first.used_at > 0
    await tcp.operator.tenants.Revoke(te.RevokeTenant(name="alice", token_id=first.token_id))
    assert [await hello(alice, each) for each in (old, new)] == ["UNAUTHENTICATED", "alice"]
    with pytest.raises(grpc.aio.AioRpcError, match="has no token"):
        await tcp.operator.tenants.Revoke(te.RevokeTenant(name="alice", token_id=first.token_id))


async def test_revoking_one_token_ends_its_streams_and_no_others(tcp: Tcp) -> None:
    alice, first = await tcp.tenant("alice")
    second_id, second = await issue(tcp, "alice")
    attached = [
        alice.sessions.Attach(se.AttachSession(notebook_id="nb", session_id=f"s{n}"), metadata=metadata)
        for n, metadata in enumerate((first, second))
    ]
    for each in attached:
        assert await each.read() is not grpc.aio.EOF
    await tcp.operator.tenants.Revoke(te.RevokeTenant(name="alice", token_id=second_id))
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await attached[1].read()
    assert reason(ended.value) == "UNAUTHENTICATED"
    assert not attached[0].done()
    assert await hello(alice, first) == "alice"


async def test_a_token_expires_for_calls_and_open_streams(tcp: Tcp) -> None:
    alice, lasting = await tcp.tenant("alice")
    await cell(alice, lasting)
    _, short = await issue(tcp, "alice", expires_in_s=2.0)
    watching = alice.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"), metadata=short)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in watching:
            pass
    assert reason(ended.value) == "UNAUTHENTICATED"
    assert await hello(alice, short) == "UNAUTHENTICATED"
    assert await hello(alice, lasting) == "alice"
    assert (await tcp.operator.tenants.Get(te.GetTenant(name="alice"))).tokens == 1


async def test_to_read_is_to_look_only(tcp: Tcp, yard: Yard) -> None:
    alice, full = await tcp.tenant("alice")
    await cell(alice, full)
    _, read = await issue(tcp, "alice", scope="read")
    cells = await alice.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"), metadata=read)
    assert [each.source for each in cells.cells] == ["x"]
    for refused in (
        alice.notebooks.SetSource(nb.SetSourceRequest(notebook_id="nb", cell_id="c", source="y"), metadata=read),
        alice.executions.Enqueue(ex.Start(notebook_id="nb", cell_id="c"), metadata=read),
        alice.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb"), metadata=read),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=r"has the scope read, and \w+\.\w+ needs") as denied:
            await refused
        assert reason(denied.value) == "PERMISSION_DENIED"


async def test_a_reader_makes_no_notebook_and_ends_no_kernel(tcp: Tcp, yard: Yard) -> None:
    alice, full = await tcp.tenant("alice")
    _, read = await issue(tcp, "alice", scope="read")
    nowhere = alice.sessions.Attach(se.AttachSession(notebook_id="none", session_id="s"), metadata=read)
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await nowhere.read()
    assert reason(missing.value) == "NOTEBOOK_NOT_FOUND"
    start = ex.Start(notebook_id="nb", session_id="s", source=ex.NewCell(cell_id="c", source="value 1"))
    async for _ in alice.executions.Execute(start, metadata=full):
        pass
    looking = alice.sessions.Attach(se.AttachSession(notebook_id="nb", session_id="s", used_kernel=True), metadata=read)
    assert await looking.read() is not grpc.aio.EOF
    closed = await alice.sessions.Close(se.CloseSession(notebook_id="nb", session_id="s"), metadata=read)
    assert not closed.kernel_shut_down
    assert len((await alice.sandboxes.List(sb.ListSandboxes(), metadata=full)).sandboxes) == 1


async def test_to_run_is_all_but_to_remove(tcp: Tcp) -> None:
    alice, _ = await tcp.tenant("alice")
    _, run = await issue(tcp, "alice", scope="run")
    await cell(alice, run)
    async for _ in alice.executions.Execute(ex.Start(notebook_id="nb", cell_id="c"), metadata=run):
        pass
    for refused in (
        alice.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb"), metadata=run),
        alice.sandboxes.Stop(sb.StopSandbox(sandbox_id="sb"), metadata=run),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="needs full"):
            await refused


def test_every_method_has_its_scope() -> None:
    pool = descriptor_pool.Default()
    services = ("Sessions", "Notebooks", "Executions", "Kernels", "Files", "Processes", "Sandboxes", "Tenants")
    services += ("Workflows", "Artifacts")
    methods = {
        f"{service}.{method.name}"
        for service in services
        for method in pool.FindServiceByName(f"cellyard.v1.{service}").methods
    }
    assert methods - scopes.NEEDED.keys() == set()


async def test_quotas_are_set_and_seen_at_once(tcp: Tcp, yard: Yard) -> None:
    alice, as_alice = await tcp.tenant("alice")
    bob, as_bob = await tcp.tenant("bob")
    request = te.SetTenantQuotas(name="alice", quotas={"sandboxes": "2", "memory": "4GiB"})
    changed = await tcp.operator.tenants.SetQuotas(request)
    assert (changed.quotas.sandboxes, changed.quotas.memory_bytes) == (2, 4 << 30)
    assert list(changed.quotas_set) == ["memory", "sandboxes"]
    assert await alice.tenants.Get(te.GetTenant(), metadata=as_alice) == changed
    assert yard.controller.quotas.of("alice") == Quota(sandboxes=2, memory=4 << 30)
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await bob.tenants.Get(te.GetTenant(name="alice"), metadata=as_bob)
    assert reason(denied.value) == "PERMISSION_DENIED"
    for wrong, says in ({"sandboxes": "-1"}, "sandboxes is not negative"), ({"x": "1"}, "unknown quota 'x'"):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as refused:
            await tcp.operator.tenants.SetQuotas(te.SetTenantQuotas(name="alice", quotas=wrong))
        assert reason(refused.value) == "INVALID_REQUEST"
    await yard.stop()
    await yard.start(quotas={"sandboxes": 1, "cpu": 2})
    assert yard.controller.quotas.of("alice") == Quota(sandboxes=2, memory=4 << 30, cpu=2.0)
    assert yard.controller.quotas.of("bob") == Quota(sandboxes=1, cpu=2.0)


def cellyard(data: Path, *words: str) -> tuple[int, str, str]:
    """A command of the operator's."""
    command = [sys.executable, "-m", "cellyard_controller", "tenants", *words, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


async def test_commands_work_with_and_without_a_controller(yard: Yard) -> None:
    data = yard.folder / "data"
    code, token, _ = cellyard(data, "create", "alice", "--quota", "sandboxes=4", "--expires", "90d")
    assert code == 0
    assert token.startswith("cy_")
    noted = json.loads((data / "audit.jsonl").read_text())
    assert (noted["action"], noted["of"], noted["from"]) == ("Tenants.Create", "alice", "the data folder")
    assert noted["token_id"] == token.split("_")[1]
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock",))
    assert await hello(stubs, (("authorization", f"Bearer {token}"),)) == "alice"
    told = await asyncio.to_thread(cellyard, data, "quota", "alice", "memory=4GiB", "--json")
    assert json.loads(told[1])["quotas"]["memory"] == 4 << 30
    assert yard.controller.quotas.of("alice") == Quota(sandboxes=4, memory=4 << 30)
    (listed,) = json.loads((await asyncio.to_thread(cellyard, data, "list", "--json"))[1])
    assert (listed["name"], listed["tokens"], listed["quotas"]["sandboxes"]) == ("alice", 1, 4)
    for wrong, says in (("quota", "alice", "cpu=-1"), "cpu is not negative"), (("quota", "bob"), "does not exist"):
        code, _, why = await asyncio.to_thread(cellyard, data, *wrong)
        assert code == 2
        assert says in why
    (old,) = json.loads((await asyncio.to_thread(cellyard, data, "tokens", "alice", "--json"))[1])
    _, new, _ = await asyncio.to_thread(cellyard, data, "issue", "alice", "--scope", "read", "--name", "dashboard")
    assert (await asyncio.to_thread(cellyard, data, "revoke", "alice", "--token", old["token_id"]))[0] == 0
    assert await hello(stubs, (("authorization", f"Bearer {token}"),)) == "UNAUTHENTICATED"
    assert await hello(stubs, (("authorization", f"Bearer {new}"),)) == "alice"
