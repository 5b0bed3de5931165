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


@pytest.fixture
async def agent(folder: Path, controller: Controller) -> AsyncIterator[AgentProcess]:
    """An agent that has said Hello; no kernel yet."""
    agent = AgentProcess(folder)
    await agent.start(controller.path)
    await controller.until(lambda: controller.connected)
    yield agent
    await agent.stop()


@pytest.fixture
async def kernel(agent: AgentProcess, controller: Controller) -> Controller:
    """A controller whose agent has a kernel ready."""
    await controller.start_kernel()
    return controller
