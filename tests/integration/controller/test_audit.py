"""Who did what to which notebook, from where: what the audit log says of calls, and what it never says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellyard_controller.tenants.audit import FILE
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import files_pb2, files_pb2_grpc, processes_pb2, processes_pb2_grpc
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sessions_pb2 as se
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Yard
from .test_access import Tcp

SECRET = "s3cr3t-and-long"


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


async def entries(yard: Yard) -> list[dict[str, Any]]:
    """All that is in the log."""
    await yard.controller._audit.flush()
    return [json.loads(line) for line in (yard.folder / "data" / FILE).read_text().splitlines()]


async def test_what_is_done_is_noted_with_who_and_where(tcp: Tcp, yard: Yard) -> None:
    alice, as_alice = await tcp.tenant("alice")
    (token,) = (await tcp.operator.tenants.ListTokens(te.ListTokensRequest(tenant="alice"))).tokens
    cell = nb.CreateCellRequest(notebook_id="nb", cell_id="c", source=f"value {SECRET}", request_id="r1")
    await alice.notebooks.CreateCell(cell, metadata=as_alice)
    await alice.notebooks.ListCells(nb.ListCellsRequest(notebook_id="nb"), metadata=as_alice)
    kernel = ker.KernelSettings(env={"KEY": SECRET}, files=[ker.InlineFile(name="f", content=SECRET.encode())])
    accepted = None
    start = ex.Start(notebook_id="nb", cell_id="c", kernel=kernel)
    async for event in alice.executions.Execute(start, metadata=as_alice):
        accepted = accepted or event.accepted
    assert accepted is not None
    with pytest.raises(grpc.aio.AioRpcError):
        await alice.notebooks.DeleteCell(nb.DeleteCellRequest(notebook_id="nb", cell_id="no"), metadata=as_alice)
    await alice.notebooks.Delete(nb.DeleteNotebook(notebook_id="nb"), metadata=as_alice)
    noted = await entries(yard)
    of_alice = [entry for entry in noted if entry.get("tenant") == "alice"]
    assert [(entry["action"], entry.get("outcome")) for entry in of_alice] == [
        ("Notebooks.CreateCell", "ok"),
        ("Executions.Execute", "ok"),
        ("sandbox.claimed", None),
        ("Notebooks.DeleteCell", "cell_not_found"),
        ("sandbox.ended", None),
        ("Notebooks.Delete", "ok"),
    ]
    created, executed, claimed, _, ended, _ = of_alice
    assert (created["notebook_id"], created["cell_id"], created["request_id"]) == ("nb", "c", "r1")
    assert created["token"] == token.token_id
    assert created["from"].startswith("ipv4:127.0.0.1:")
    assert (executed["execution_id"], executed["cell_id"]) == (accepted.execution_id, "c")
    assert claimed["sandbox_id"] == ended["sandbox_id"]
    assert ended["reason"] == "shutdown"
    assert SECRET not in (yard.folder / "data" / FILE).read_text()


async def test_refusals_are_noted_with_whatever_is_known(tcp: Tcp, yard: Yard) -> None:
    alice, _ = await tcp.tenant("alice")
    grant = te.TokenGrant(scope="read")
    issued = await tcp.operator.tenants.IssueToken(te.IssueTokenRequest(tenant="alice", grant=grant))
    read = (("authorization", f"Bearer {issued.token}"),)
    delete = nb.DeleteNotebook(notebook_id="nb")
    for metadata in (read, (), (("authorization", f"Bearer {SECRET}"),)):
        with pytest.raises(grpc.aio.AioRpcError):
            await alice.notebooks.Delete(delete, metadata=metadata)
    for _ in range(100):
        with pytest.raises(grpc.aio.AioRpcError):
            await alice.sessions.Hello(se.HelloRequest(protocol=1))
    noted = await entries(yard)
    denied, missing, wrong, *more = [entry for entry in noted if entry["action"].split(".")[0] != "Tenants"]
    assert (denied["outcome"], denied["tenant"], denied["token"]) == ("permission_denied", "alice", issued.token_id)
    for entry in (missing, wrong):
        assert entry["outcome"] == "unauthenticated"
        assert "tenant" not in entry
        assert "notebook_id" not in entry, "what nobody sends who is known is not even read"
        assert entry["from"].startswith("ipv4:127.0.0.1:")
    assert len(more) == 17  # of an address twenty in a minute
    text = (yard.folder / "data" / FILE).read_text()
    assert SECRET not in text
    assert issued.token not in text


async def test_what_the_operator_does_is_on_disk_before_it_is_answered(tcp: Tcp, yard: Yard) -> None:
    request = te.CreateTenant(name="bob", quotas={"cpu": "2"}, grant=te.TokenGrant(scope="run"))
    created = await tcp.operator.tenants.Create(request)
    text = (yard.folder / "data" / FILE).read_text()
    entry = json.loads(text.splitlines()[-1])
    assert (entry["action"], entry["tenant"], entry["of"], entry["from"]) == ("Tenants.Create", "local", "bob", "unix:")
    assert (entry["quotas"], entry["scope"], entry["token_id"]) == ({"cpu": "2"}, "run", created.token_id)
    assert created.token not in text


async def test_files_and_commands_are_noted_by_name(tcp: Tcp, yard: Yard) -> None:
    stubs = tcp.operator
    await stubs.run("nb", "value 1")
    files = files_pb2_grpc.FilesStub(stubs.channel)
    processes = processes_pb2_grpc.ProcessesStub(stubs.channel)

    async def parts() -> AsyncIterator[files_pb2.UploadPart]:
        yield files_pb2.UploadPart(begin=files_pb2.UploadBegin(notebook_id="nb", path="a/b", size=len(SECRET)))
        yield files_pb2.UploadPart(content=SECRET.encode())

    async for _ in files.Upload(parts()):
        pass
    async for _ in files.Download(files_pb2.DownloadFile(notebook_id="nb", path="a/b")):
        pass

    async def command() -> AsyncIterator[processes_pb2.ExecInput]:
        start = processes_pb2.ExecStart(notebook_id="nb", argv=["cat", SECRET])
        yield processes_pb2.ExecInput(start=start)
        yield processes_pb2.ExecInput(stdin_end=processes_pb2.ExecStdinEnd())

    with pytest.raises(grpc.aio.AioRpcError, match="no programs"):  # a fake sandbox; asking is noted all the same
        async for _ in processes.Exec(command()):
            pass
    noted = {entry["action"]: entry for entry in await entries(yard)}
    assert (noted["Files.Upload"]["path"], noted["Files.Upload"]["size"]) == ("a/b", len(SECRET))
    assert noted["Files.Download"]["path"] == "a/b"
    assert (noted["Processes.Exec"]["program"], noted["Processes.Exec"]["arguments"]) == ("cat", 1)
    assert {entry["notebook_id"] for name, entry in noted.items() if name.startswith(("Files", "Proc"))} == {"nb"}
    assert SECRET not in (yard.folder / "data" / FILE).read_text()


def asked(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cellyard_controller", "audit", "--data", str(data), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_the_command_shows_what_was_asked_for(tcp: Tcp, yard: Yard) -> None:
    alice, as_alice = await tcp.tenant("alice")
    for notebook in ("a", "b"):
        cell = nb.CreateCellRequest(notebook_id=notebook, cell_id="c")
        await alice.notebooks.CreateCell(cell, metadata=as_alice)
        await tcp.operator.notebooks.CreateCell(cell)
    await yard.controller._audit.flush()
    data = yard.folder / "data"
    done = await asyncio.to_thread(asked, data, "--tenant", "alice", "--notebook", "b", "--since", "1h", "--json")
    (entry,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (entry["action"], entry["tenant"], entry["notebook_id"]) == ("Notebooks.CreateCell", "alice", "b")
    done = await asyncio.to_thread(asked, data, "--action", "Notebooks.", "--limit", "3")
    assert len(done.stdout.splitlines()) == 3
    assert not (await asyncio.to_thread(asked, data, "--refused")).stdout
    done = await asyncio.to_thread(asked, data, "--since", "yesterday")
    assert (done.returncode, "neither a time span" in done.stderr) == (2, True)
