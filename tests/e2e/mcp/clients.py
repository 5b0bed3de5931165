"""The official client of the Model Context Protocol, connected to `cellyard mcp` as models' programs do it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.controller_process import Process

COMMAND = (sys.executable, "-m", "cellyard.cli", "mcp")
WITHIN_S = 90.0


def arguments(controller: Process, *flags: str) -> list[str]:
    """The command line of a server that uses this controller."""
    # A machine that does other things besides may take long over an import.
    return [*COMMAND, "--endpoint", controller.endpoint, "--timeout", "240", *flags]


@asynccontextmanager
async def stdio(controller: Process, *flags: str) -> AsyncIterator[ClientSession]:
    """A client of a server of its own, which is started as its child."""
    command, *rest = arguments(controller, *flags)
    server = StdioServerParameters(command=command, args=rest, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


class HttpServer:
    """A server over HTTP, as a process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, token: str) -> None:
        self.process, self.url, self.token = process, url, token

    @classmethod
    async def start(cls, controller: Process, *flags: str, listen: str = "127.0.0.1:0") -> HttpServer:
        """Starts it, and waits until it listens."""
        file = controller.folder / "mcp.token"
        command = arguments(controller, "--http", listen, "--http-token-file", str(file), *flags)
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        line = (await process.stderr.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + (await process.stderr.read()).decode()
        return cls(process, found.group(), file.read_text().strip())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ClientSession]:
        """One of its clients."""
        async with (
            httpx.AsyncClient(headers={"Authorization": f"Bearer {self.token}"}, timeout=WITHIN_S) as http,
            streamable_http_client(self.url, http_client=http) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            yield session

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(WITHIN_S):
            return await self.process.wait()


def shown(result: types.CallToolResult) -> str:
    """What a tool has shown, without the line of facts that is behind what code prints."""
    texts = [block.text for block in result.content if isinstance(block, types.TextContent)]
    return texts[0] if texts else ""


async def call(session: ClientSession, name: str, **given: Any) -> types.CallToolResult:
    """Calls a tool that is expected to do what it is asked."""
    result = await session.call_tool(name, given)
    assert not result.isError, shown(result)
    return result


async def refused(session: ClientSession, name: str, **given: Any) -> str:
    """Calls a tool that is expected to refuse; what it says."""
    result = await session.call_tool(name, given)
    assert result.isError, shown(result)
    return shown(result)


async def data(session: ClientSession, name: str, **given: Any) -> dict[str, Any]:
    """What a tool gives as data."""
    found = (await call(session, name, **given)).structuredContent
    assert found is not None
    return found
