"""Network policies: who may ask for which, what a sandbox has then, and when that ends."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from cellyard_controller.config import Config
from cellyard_controller.runtimes.fake import FakeRuntime
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker

from .conftest import Stubs, Yard

LISTED = {"network": "allowlist", "allow": ["listed.test:80"]}
TEMPLATES = {
    "listed": LISTED,
    "asked": {"allow": ["listed.test:80"]},
    "free": {"network_open": True},
}


async def start(stubs: Stubs, notebook: str, **settings: Any) -> ker.Kernel:
    request = ker.StartKernel(
        notebook_id=notebook, request_id=f"start-{uuid.uuid4()}", settings=ker.KernelSettings(**settings)
    )
    kernel = None
    async for event in stubs.kernels.Start(request):
        if event.HasField("kernel"):
            kernel = event.kernel
    assert kernel is not None
    return kernel


def door(yard: Yard, kernel: ker.Kernel) -> Path:
    return yard.folder / "data" / "link" / kernel.sandbox_id / "proxy.sock"


async def ask(path: Path, host: str) -> bytes:
    """The first line of the proxy's answer."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    try:
        async with asyncio.timeout(20):
            return await reader.readline()
    finally:
        writer.close()


async def nothing(*_: object) -> None:
    """In place of what is not to be done."""


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({}, "none"),
        ({"template": "listed"}, "allowlist"),
        ({"template": "listed", "network": "none"}, "none"),
        ({"template": "asked"}, "none"),
        ({"template": "asked", "network": "allowlist"}, "allowlist"),
        ({"template": "free"}, "none"),
        ({"template": "free", "network": "open"}, "open"),
    ],
)
async def test_a_sandbox_has_the_policy_that_is_asked_for_or_else_its_templates(
    yard: Yard, settings: dict[str, str], policy: str
) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    kernel = await start(stubs, "nb", **settings)
    assert kernel.network == policy
    assert ("network_isolation" in kernel.capabilities) == (policy != "open")
    assert [each.name for each in door(yard, kernel).parent.iterdir() if each.name != "agent.sock"] == (
        ["proxy.sock"] if policy == "allowlist" else []
    )


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"network": "open"}, "network_open"),
        ({"network": "allowlist"}, "allow"),
        ({"template": "listed", "network": "open"}, "network_open"),
        ({"template": "free", "network": "allowlist"}, "allow"),
    ],
)
async def test_what_the_operator_does_not_allow_is_refused(yard: Yard, settings: dict[str, str], setting: str) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    with pytest.raises(grpc.aio.AioRpcError, match=setting) as refused:
        await start(stubs, "nb", **settings)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert yard.runtime.starts == 0


async def test_an_open_network_and_isolation_of_it_exclude_each_other(yard: Yard) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    with pytest.raises(grpc.aio.AioRpcError, match="the network policy is open"):
        await start(stubs, "nb", template="free", network="open", require=["network_isolation"])
    assert yard.runtime.starts == 0
    kernel = await start(stubs, "nb", template="listed", require=["network_isolation"])
    assert "network_isolation" in kernel.capabilities


async def test_nobody_joins_another_policy_than_they_named(yard: Yard) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    first = await start(stubs, "nb", template="asked", network="allowlist")
    for settings in ({"network": "none"}, {"template": "asked", "network": "none"}, {"template": "free"}):
        with pytest.raises(grpc.aio.AioRpcError, match="shut it down first"):
            await start(stubs, "nb", **settings)
    for settings in ({}, {"network": "allowlist"}, {"template": "asked"}):
        assert (await start(stubs, "nb", **settings)).sandbox_id == first.sandbox_id


async def test_a_denial_is_an_event_of_the_running_execution(yard: Yard) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    kernel = await start(stubs, "nb", template="listed")
    stream = stubs.start("nb", "gate never")
    async for event in stream:
        if event.WhichOneof("event") == "started":
            assert (await ask(door(yard, kernel), "other.test:443")).startswith(b"HTTP/1.1 403 ")
        if event.WhichOneof("event") == "warning":
            assert event.warning.kind == "network_denied"
            assert dict(event.warning.details) == {"host": "other.test", "port": "443", "reason": "not_listed"}
            assert "not on this sandbox's list" in event.warning.message
            break
    stream.cancel()


async def test_a_list_ends_with_its_sandbox(yard: Yard) -> None:
    stubs = await yard.start(templates=TEMPLATES)
    kernel = await start(stubs, "nb", template="listed")
    path = door(yard, kernel)
    assert (await ask(path, "other.test:443")).startswith(b"HTTP/1.1 403 ")
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="nb", request_id="s"))
    with pytest.raises(OSError, match=r"No such file|refused"):
        await ask(path, "other.test:443")


async def test_a_restarted_controller_gives_a_kept_sandbox_its_way_out_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs = await yard.start(templates=TEMPLATES, on_stop="keep")
    kernel = await start(stubs, "nb", template="listed")
    path = door(yard, kernel)
    assert (await ask(path, "other.test:443")).startswith(b"HTTP/1.1 403 ")
    with monkeypatch.context() as outlives:
        outlives.setattr(FakeRuntime, "close", nothing)
        await yard.stop()
    with pytest.raises(ConnectionRefusedError):
        await ask(path, "other.test:443")
    stubs = await yard.start(templates=TEMPLATES)
    async with asyncio.timeout(20):
        while True:
            try:
                assert (await ask(path, "other.test:443")).startswith(b"HTTP/1.1 403 ")
                break
            except (ConnectionRefusedError, FileNotFoundError):
                await asyncio.sleep(0.02)  # it is adopted while the controller listens already
    assert (await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))).sandbox_id == kernel.sandbox_id
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_the_process_runtime_has_no_policy_but_none(yard: Yard) -> None:
    yard.runtime = FakeRuntime(name="process")
    stubs = await yard.start(templates=TEMPLATES, runtime=("docker", "process"))
    yard.controller.supervisor.catalogue._runtimes = {"process": yard.runtime}  # type: ignore[assignment]
    with pytest.raises(grpc.aio.AioRpcError, match="confines no network"):
        await start(stubs, "nb", runtime="process", template="asked", network="allowlist")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"templates": {"x": {"network": "allowlist"}}}, "needs a list"),
        ({"templates": {"x": {"allow": ["10.0.0.1:443"]}}}, "is an address"),
        ({"templates": {"x": {"allow": ["example.org"]}}}, "has no port"),
        ({"templates": {"x": {"network": "open"}}}, "'none' or 'allowlist'"),
        ({"network": {"hosts": {"10.0.0.1": "10.0.0.2"}}}, "is an address"),
        ({"network": {"hosts": {"mirror.test": "mirror"}}}, "does not appear to be"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(settings: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(ValidationError, match=says):
        Config(data=folder, **settings)
