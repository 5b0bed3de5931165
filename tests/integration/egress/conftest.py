"""A proxy as its own process, an agent's forwarder before it, and servers behind it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.servers import NAME, Servers

from cellyard_controller.config import NetworkConfig
from cellyard_controller.egress.process import SOCKET_NAME, Egress
from cellyard_controller.egress.targets import Denial
from cellyard_sandbox.forward import Forwarder


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


class Yard:
    """The proxy, and sandboxes that are nothing but their sockets and forwarders."""

    def __init__(self, folder: Path, **config: object) -> None:
        self.folder = folder
        self.denials: asyncio.Queue[tuple[str, Denial]] = asyncio.Queue()
        settings = NetworkConfig.model_validate({"hosts": {NAME: "127.0.0.1"}, **config})
        self.egress = Egress(settings, lambda sandbox, denial: self.denials.put_nowait((sandbox, denial)))
        self._running = asyncio.create_task(self.egress.run())
        self._forwarders: list[Forwarder] = []

    async def sandbox(self, name: str, allow: list[str]) -> Forwarder:
        """A sandbox with this list; what programs in it would use to get out."""
        folder = self.folder / name
        folder.mkdir(mode=0o711, exist_ok=True)
        await self.egress.open(name, folder, os.getuid(), allow)
        forwarder = Forwarder(str(folder / SOCKET_NAME))
        self._forwarders.append(forwarder)
        return forwarder

    async def close(self) -> None:
        for forwarder in self._forwarders:
            await forwarder.close()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
async def yard(folder: Path) -> AsyncIterator[Yard]:
    yard = Yard(folder)
    yield yard
    await yard.close()


@pytest.fixture
async def way_out(yard: Yard, servers: Servers) -> Forwarder:
    """Of a sandbox whose list has the servers."""
    return await yard.sandbox("sb-1", servers.allow)
