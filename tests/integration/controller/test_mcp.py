"""The server for models on a real controller whose kernels are scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import ClientSession, types
from mcp.shared.memory import create_connected_server_and_client_session
from tests.package_index import PackageIndex

from cellyard import AsyncClient, AsyncSession
from cellyard.mcp import server
from cellyard.mcp.notebooks import Notebooks

from .conftest import Yard


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0", requires=["needed>=1"])
    index.add("needed", "1.5")
    yield index
    index.close()


@asynccontextmanager
async def model(endpoint: str, token: str | None = None) -> AsyncIterator[ClientSession]:
    """The official client, and the server in this process."""

    def client() -> AsyncClient:
        return AsyncClient(endpoint, token)

    async def look_for(notebook_id: str) -> None:
        async with client() as asking:
            await asking.list_executions(notebook_id, 1)

    notebooks = Notebooks(lambda name: AsyncSession(name, endpoint=endpoint, token=token), look_for, "own")
    made = server.build(notebooks, client, timeout=60.0, limit=20_000)
    async with create_connected_server_and_client_session(made) as session:
        yield session
    await notebooks.close()


async def said(session: ClientSession, name: str, **given: Any) -> tuple[str, bool]:
    """The text that a tool gives, and whether it is a refusal."""
    result = await session.call_tool(name, given)
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text, result.isError


async def test_packages_come_into_the_running_kernel(yard: Yard, index: PackageIndex) -> None:
    yard.config["environments"] = {"index": index.url}
    await yard.start()
    async with model(f"unix:{yard.folder}/c.sock") as session:
        assert await said(session, "install_packages", requirements=["tiny"]) == (
            "installed: needed 1.5, tiny 1.0",
            False,
        )
        assert await said(session, "install_packages", requirements=["tiny"]) == ("there before: tiny", False)
        text, refused = await said(session, "install_packages", requirements=["nowhere"])
        assert refused
        assert text.startswith("EnvironmentFailed: ")


async def test_only_the_callers_own_sessions_are_listed_though_an_operator_sees_all(yard: Yard) -> None:
    await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    endpoint = f"unix:{yard.folder}/c.sock"
    async with AsyncClient(endpoint) as operator:
        token = (await operator.create_tenant("alice")).token
        async with model(endpoint) as local, model(yard.controller.addresses[1], token) as alice:
            for session in (local, alice):
                await session.call_tool("run_code", {"code": "value 1"})
            assert len(await operator.list_sandboxes()) == 2
            for session in (local, alice):
                listed = (await session.call_tool("list_sessions", {})).structuredContent
                assert listed is not None
                assert [each["notebook_id"] for each in listed["sessions"]] == ["own"]


async def test_calls_that_come_at_once_run_one_after_the_other_in_one_kernel(yard: Yard) -> None:
    await yard.start()
    async with model(f"unix:{yard.folder}/c.sock") as session:
        calls = (session.call_tool("run_code", {"code": f"value {number}"}) for number in range(5))
        results = await asyncio.gather(*calls)
        assert not any(result.isError for result in results)
        counts = sorted(result.meta["cellyard/execution_count"] for result in results if result.meta)
        assert counts == [1, 2, 3, 4, 5]
