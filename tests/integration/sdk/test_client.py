"""What is there on a controller, in both flavours."""

from __future__ import annotations

import pytest
from tests.integration.sdk import flavours
from tests.integration.sdk.faultline import Faultline
from tests.integration.sdk.scripted_controller import ScriptedController

import cellyard
from cellyard_proto.v1 import sandboxes_pb2


async def test_the_controller_introduces_itself(flavour: str, endpoint: str, controller: ScriptedController) -> None:
    controller.ready, controller.not_ready_reason = False, "no engine: start dockerd"
    async with flavours.client(flavour, endpoint) as client:
        server = await client.server(start=False)
    assert (server.endpoint, server.version, server.protocol) == (endpoint, "scripted", 1)
    assert (server.ready, server.not_ready_reason) == (False, "no engine: start dockerd")
    assert (server.tenant, server.runtimes) == ("local", ("docker", "process"))
    assert controller.called("Sessions.Attach") == []


async def test_notebooks_are_listed_by_page_and_deleted(
    flavour: str, endpoint: str, controller: ScriptedController
) -> None:
    for name in ("a", "b/ä", "c"):
        controller.notebook(name)
    async with flavours.client(flavour, endpoint) as client:
        assert [found.notebook_id for found in await client.list_notebooks(limit=2)] == ["a", "b/ä"]
        assert [found.notebook_id for found in await client.list_notebooks(after="b/ä")] == ["c"]
        await client.delete_notebook("b/ä")
        with pytest.raises(cellyard.NotebookNotFound):
            await client.delete_notebook("b/ä")
        with pytest.raises(cellyard.InvalidRequest):
            await client.delete_notebook("")


async def test_sandboxes_are_listed_and_stopped(flavour: str, endpoint: str, controller: ScriptedController) -> None:
    controller.sandboxes = [
        sandboxes_pb2.Sandbox(sandbox_id="sb-1", state=sandboxes_pb2.SANDBOX_STATE_WARM, template="default", age_s=2),
        sandboxes_pb2.Sandbox(sandbox_id="sb-2", container_id="c", notebook_id="n", tenant="local", runtime="docker"),
    ]
    async with flavours.client(flavour, endpoint) as client:
        warm, used = await client.list_sandboxes()
        assert (warm.sandbox_id, warm.state, warm.notebook_id, warm.container_id) == ("sb-1", "warm", None, None)
        assert (used.notebook_id, used.container_id, used.tenant, used.runtime) == ("n", "c", "local", "docker")
        await client.stop_sandbox("sb-1")
        assert [found.sandbox_id for found in await client.list_sandboxes()] == ["sb-2"]


async def test_executions_of_any_notebook(flavour: str, endpoint: str) -> None:
    async with flavours.session(flavour, "n", endpoint=endpoint) as session:
        result = await session.run("print('x')")
    async with flavours.client(flavour, endpoint) as client:
        (found,) = await client.list_executions("n")
        assert (found.execution_id, found.outputs) == (result.execution_id, [])
        assert (await client.get_execution("n", result.execution_id)).stdout == "x\n"
        with pytest.raises(cellyard.ExecutionNotFound):
            await client.get_execution("n", "nope")


async def test_capabilities_of_a_runtime(flavour: str, endpoint: str) -> None:
    async with flavours.client(flavour, endpoint) as client:
        granted = {found.name: found.granted for found in await client.capabilities(runtime="process")}
    assert granted == {"timeout": True, "container_isolation": False}


async def test_a_break_is_healed_here_too(flavour: str, endpoint: str, line: Faultline) -> None:
    async with flavours.client(flavour, endpoint) as client:
        assert await client.list_notebooks() == []
        line.cut()
        assert await client.list_notebooks() == []


async def test_a_client_connects_again_after_close(flavour: str, endpoint: str) -> None:
    client = flavours.client(flavour, endpoint)
    assert await client.list_notebooks() == []
    await client.close()
    await client.close()
    assert await client.list_notebooks() == []
    await client.close()
