"""Sets of tools for tests, and what is left of what they started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools import OnToolCall, ToolSet


def stored(text: str, name: str = "t") -> StoredTool:
    return StoredTool(name, dedent(text).encode(), f"tools/{name}.yaml")


@asynccontextmanager
async def opened(*texts: str, on_tool_call: OnToolCall | None = None) -> AsyncIterator[ToolSet]:
    """A set of tools of these definitions, `tools/t0.yaml` and so on."""
    tools = ToolSet([stored(text, f"t{n}") for n, text in enumerate(texts)], on_tool_call)
    try:
        await tools.start()
        yield tools
    finally:
        await tools.close()


def pid_in(file: Path) -> int | None:
    """What a tool has written there of itself, once it is whole."""
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else None


async def next_line(pipe: Path) -> str:
    """What somebody writes into a named pipe, in one piece."""
    # Open for both, so that neither opening it nor a writer that never comes holds up a thread.
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    loop = asyncio.get_running_loop()
    written = asyncio.Event()
    loop.add_reader(descriptor, written.set)
    try:
        async with asyncio.timeout(60):
            await written.wait()
        return os.read(descriptor, 4096).decode().strip()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def open_descriptors() -> set[str]:
    """Of this process, by number and by what they lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them is among them
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


async def gone(pid: int | None) -> bool:
    """Waits for a process to end; False where it does not, or there never was one."""
    if pid is None:
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(await asyncio.to_thread(poll.poll, 30_000))
    finally:
        os.close(descriptor)
