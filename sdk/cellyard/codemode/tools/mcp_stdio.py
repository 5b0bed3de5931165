"""The Model Context Protocol over a process' standard streams: a message a line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from cellyard.codemode.tools.process_groups import ProcessGroup, Reading, Tail

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of a message."""
GRACE = 1.0
"""Seconds that a server has to end by itself once its input is closed."""

Streams: TypeAlias = tuple[
    MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]
]
_Incoming: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]


class ServerSaid:
    """What a server said beside the protocol, for the message of what goes wrong with it."""

    def __init__(self) -> None:
        self.stderr = Tail(4096)
        self.garbage = b""
        """The first line of its output that was no message."""
        self.end = ""
        """Why nothing more is read of it."""

    def __str__(self) -> str:
        parts = [self.end, self.stderr.text()]
        if self.garbage:
            parts.append(f"it wrote what is no message: {self.garbage[:200]!r}")
        return "; ".join(part for part in parts if part)


@asynccontextmanager
async def stdio(
    argv: Sequence[str], env: Mapping[str, str], said: ServerSaid, lost: Callable[[], object]
) -> AsyncIterator[Streams]:
    """Starts a server in a process group of its own, all of which is killed at the end.

    `lost` is called when nothing more can come from it. The library's own transport has no limit for a line, and ends
    no group whose leader has ended. Raises OSError.
    """
    group = ProcessGroup(argv, env=env, stdin=True)
    descriptors: list[int] = []
    stderr: Reading | None = None
    try:
        descriptors = [stdin, stdout] = [group.take("stdin"), group.take("stdout")]
        stderr = Reading(group.take("stderr"), said.stderr.add)
        incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        async with incoming, read, write, outgoing, anyio.create_task_group() as tasks:
            tasks.start_soon(_receive, stdout, incoming, said, lost)
            tasks.start_soon(_send, stdin, outgoing, said, lost)
            try:
                yield read, write
            finally:
                tasks.cancel_scope.cancel()
        os.close(descriptors.pop(0))
        await asyncio.wait([group.exited], timeout=GRACE)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        group.kill()
        if stderr is not None:
            stderr.drain()
        await group.end()


async def _receive(stdout: int, incoming: _Incoming, said: ServerSaid, lost: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    buffer = bytearray()
    searched = 0
    try:
        while True:
            await _until(loop.add_reader, loop.remove_reader, stdout)
            try:
                piece = os.read(stdout, 64 * 1024)
            except BlockingIOError:
                continue
            if not piece:
                said.end = "it has ended, or closed its output"
                return
            buffer += piece
            while (end := buffer.find(b"\n", searched)) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                searched = 0
                if (message := _message(line, said)) is not None:
                    await incoming.send(message)
            searched = len(buffer)
            if len(buffer) > MAX_MESSAGE:
                said.end = f"it wrote a line longer than {MAX_MESSAGE // 1024 // 1024} MiB"
                return
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # nobody listens any more: the connection is being ended
    finally:
        incoming.close()
        lost()


def _message(line: bytes, said: ServerSaid) -> SessionMessage | None:
    """None for what is no message, as logs on the wrong stream."""
    if not line.strip():
        return None
    try:
        return SessionMessage(types.JSONRPCMessage.model_validate_json(line))
    except ValidationError:
        said.garbage = said.garbage or line[:200]
        return None


async def _send(
    stdin: int, outgoing: MemoryObjectReceiveStream[SessionMessage], said: ServerSaid, lost: Callable[[], object]
) -> None:
    loop = asyncio.get_running_loop()
    try:
        async for message in outgoing:
            left = memoryview(message.message.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")
            while left:
                try:
                    left = left[os.write(stdin, left) :]
                except BlockingIOError:
                    await _until(loop.add_writer, loop.remove_writer, stdin)
    except OSError as failure:
        said.end = said.end or f"it cannot be written to: {failure.strerror}"
    finally:
        outgoing.close()
        lost()


async def _until(add: Callable[..., Any], remove: Callable[[int], Any], descriptor: int) -> None:
    """Until the descriptor can be read from, or written to."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def now() -> None:
        if not ready.done():
            ready.set_result(None)

    add(descriptor, now)
    try:
        await ready
    finally:
        remove(descriptor)
