"""An agent with a kernel, and the controller that it talks to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.agent.controller import AgentProcess, Controller


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="cy-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def controller(folder: Path) -> AsyncIterator[Controller]:
    """Listens for an agent."""
    controller = Controller(folder)
    await controller.listen()
    yield controller
    await controller.close()


@pytest.fixture(params=["python", "jupyter"])
def kernel_host(request: pytest.FixtureRequest) -> str:
    """Which of the two kernel hosts runs the Python kernel."""
    return str(request.param)


@pytest.fixture
async def agent(folder: Path, controller: Controller, kernel_host: str) -> AsyncIterator[AgentProcess]:
    """An agent that has said Hello; no kernel yet."""
    agent = AgentProcess(folder)
    await agent.start(controller.path, env={"CELLYARD_KERNEL_HOST": kernel_host})
    await controller.until(lambda: controller.connected)
    yield agent
    await agent.stop()


@pytest.fixture
async def kernel(agent: AgentProcess, controller: Controller) -> Controller:
    """A controller whose agent has a kernel ready."""
    await controller.start_kernel()
    return controller
