"""Quotas that are refused at once: requests, notebooks, waiting executions and what is kept; and usage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from cellyard_controller.tenants import allowances
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sessions_pb2 as se
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard, on_both_databases
from .test_access import Tcp


@dataclass
class Alice:
    """A tenant over TCP, with quotas."""

    tcp: Tcp
    stubs: Stubs
    metadata: tuple[tuple[str, str], ...]

    async def may_have(self, **quotas: str) -> None:
        await self.tcp.operator.tenants.SetQuotas(te.SetTenantQuotas(name="alice", quotas=quotas))

    async def cell(self, notebook: str, name: str, source: str = "value 1", **more: Any) -> Any:
        request = nb.CreateCellRequest(notebook_id=notebook, cell_id=name, source=source, **more)
        return await self.stubs.notebooks.CreateCell(request, metadata=self.metadata)

    async def enqueue(self, notebook: str, cell: str, **more: Any) -> Any:
        request = ex.Start(notebook_id=notebook, cell_id=cell, **more)
        return await self.stubs.executions.Enqueue(request, metadata=self.metadata)

    async def run(self, notebook: str, source: str) -> None:
        start = ex.Start(notebook_id=notebook, source=ex.NewCell(cell_id=f"c-{source[:20]}", source=source))
        async for _ in self.stubs.executions.Execute(start, metadata=self.metadata):
            pass

    async def start(self, notebook: str, cell: str) -> None:
        start = ex.Start(notebook_id=notebook, cell_id=cell)
        async for event in self.stubs.executions.Execute(start, metadata=self.metadata):
            if event.WhichOneof("event") == "started":
                return

    async def rerun(self, notebook: str, cell: str) -> None:
        start = ex.Start(notebook_id=notebook, cell_id=cell)
        async for _ in self.stubs.executions.Execute(start, metadata=self.metadata):
            pass

    async def usage(self) -> Any:
        return await self.stubs.tenants.GetUsage(te.GetUsageRequest(), metadata=self.metadata)


@pytest.fixture
async def alice(yard: Yard) -> AsyncIterator[Alice]:
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"), on_stop="keep")
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield Alice(tcp, *await tcp.tenant("alice"))
    for channel in tcp.channels:
        await channel.close()


def exceeded(failed: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Which quota was exceeded, and after how many seconds to try again."""
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = status_pb2.Status.FromString(dict(failed.trailing_metadata() or ())["grpc-status-details-bin"])
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.metadata["tenant"], info.metadata["retryable"]) == ("QUOTA_EXCEEDED", "alice", "true")
    return info.metadata["quota"], retry.retry_delay.ToTimedelta().total_seconds()


async def test_requests_a_second(alice: Alice) -> None:
    await alice.may_have(rate="0.01")
    hello = se.HelloRequest(protocol=1)
    for _ in range(5):
        await alice.stubs.sessions.Hello(hello, metadata=alice.metadata)
    with pytest.raises(grpc.aio.AioRpcError, match=r"more than 0\.01 requests a second") as refused:
        await alice.stubs.sessions.Hello(hello, metadata=alice.metadata)
    quota, seconds = exceeded(refused.value)
    assert quota == "rate"
    assert 0 < seconds <= 100
    watching = alice.stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb"), metadata=alice.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watching.read()
    assert exceeded(refused.value)[0] == "rate"
    await alice.tcp.operator.sessions.Hello(hello)  # nobody else notices
    await alice.may_have(rate="unlimited")
    await alice.stubs.sessions.Hello(hello, metadata=alice.metadata)


async def test_notebooks(alice: Alice) -> None:
    await alice.may_have(notebooks="2")
    await alice.cell("a", "c")
    await alice.cell("b", "c")
    with pytest.raises(grpc.aio.AioRpcError, match="2 notebooks of 2; delete one first") as refused:
        await alice.cell("c", "c")
    assert exceeded(refused.value) == ("notebooks", 60.0)
    await alice.cell("a", "another")
    await alice.stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="a"), metadata=alice.metadata)
    await alice.cell("c", "c")
    await alice.tcp.operator.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="mine", cell_id="c"))


async def test_executions_that_wait(alice: Alice, yard: Yard) -> None:
    await alice.may_have(queued="2")
    for notebook in ("a", "b"):
        for name in ("runs", "1", "2", "3"):
            await alice.cell(notebook, name, "gate g" if name == "runs" else "value 1")
    await alice.start("a", "runs")
    await alice.enqueue("a", "1")
    accepted = await alice.enqueue("a", "2", request_id="again")
    for notebook, name in (("a", "3"), ("b", "1")):
        with pytest.raises(grpc.aio.AioRpcError, match="2 waiting executions of 2") as refused:
            await alice.enqueue(notebook, name)
        assert exceeded(refused.value) == ("queued", 1.0)
    repeated = await alice.enqueue("a", "2", request_id="again")
    assert repeated.execution_id == accepted.execution_id
    cancel = ex.CancelExecution(notebook_id="a", execution_id=accepted.execution_id)
    await alice.stubs.executions.Cancel(cancel, metadata=alice.metadata)
    last = await alice.enqueue("a", "3")
    yard.runtime.open("g")
    attach = ex.AttachExecution(notebook_id="a", execution_id=last.execution_id)
    async for _ in alice.stubs.executions.Attach(attach, metadata=alice.metadata):
        pass
    await alice.rerun("b", "1")


@on_both_databases
async def test_what_is_kept(alice: Alice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowances, "MEASURED_FOR_S", 0.0)
    monkeypatch.setattr(allowances, "_SHARE", 0)
    await alice.may_have(storage="650kB")
    with pytest.raises(grpc.aio.AioRpcError, match=r"of 634\.8 KiB are kept; delete something first") as refused:
        await alice.cell("a", "large", "x" * 900_000)
    assert exceeded(refused.value) == ("storage", 60.0)
    # A source counts with the document and with each of its runs; outputs of 64 KiB and more are files, kept once.
    await alice.cell("a", "prints", f"print {'x' * 100_000}")
    for _ in range(4):
        await alice.rerun("a", "prints")
    (kept,) = (await alice.usage()).kept
    assert kept.notebooks == 1
    assert 500_000 < kept.storage_bytes < 550_000
    await alice.run("b", f"print {'y' * 100_000}")
    for refusal in (alice.cell("a", "more"), alice.enqueue("a", "prints"), alice.cell("c", "c")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await refusal
        assert exceeded(refused.value)[0] == "storage"
    gone = nb.DeleteCellRequest(notebook_id="a", cell_id="prints")
    await alice.stubs.notebooks.DeleteCell(gone, metadata=alice.metadata)
    await alice.stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="b"), metadata=alice.metadata)
    await alice.cell("a", "more")


@on_both_databases
async def test_usage_is_summed_and_outlives_its_notebook(alice: Alice, yard: Yard) -> None:
    await alice.run("a", "print hello")
    await alice.run("a", "value 2")
    await alice.stubs.notebooks.Delete(nb.DeleteNotebook(notebook_id="a"), metadata=alice.metadata)
    told = await alice.usage()
    (day,) = told.days
    assert (day.tenant, day.executions) == ("alice", 2)
    assert day.output_bytes >= len("hello\n")
    assert [(each.tenant, each.notebooks, each.storage_bytes) for each in told.kept] == [("alice", 0, 0)]
    everybody = await alice.tcp.operator.tenants.GetUsage(te.GetUsageRequest(from_day=day.day))
    assert day in everybody.days
    early = te.GetUsageRequest(tenant="alice", to_day="2000-01-01")
    assert not (await alice.tcp.operator.tenants.GetUsage(early)).days
    for wrong, code in (
        (te.GetUsageRequest(tenant="bob"), grpc.StatusCode.PERMISSION_DENIED),
        (te.GetUsageRequest(from_day="yesterday"), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await alice.stubs.tenants.GetUsage(wrong, metadata=alice.metadata)
        assert refused.value.code() is code
