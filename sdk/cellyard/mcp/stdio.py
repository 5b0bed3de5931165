"""The protocol over this process's stdin and stdout, which nobody else gets to use meanwhile.

Reading and writing block, and a blocked thread cannot be cancelled: so threads of their own do it, which the end of
the process does not wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import types
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

MAX_MESSAGE = 64 * 1024 * 1024
_PART = 64 * 1024

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


@asynccontextmanager
async def streams() -> AsyncIterator[Streams]:
    """The two streams that the library's server works with. The first ends where stdin does."""
    source, sink = _private(0, os.O_RDONLY), _private(1, os.O_WRONLY)
    # The library asks for files of anyio's, and needs these methods of them.
    writer = _Writer(sink)
    lines = _Lines(source, writer)
    async with stdio_server(cast("anyio.AsyncFile[str]", lines), cast("anyio.AsyncFile[str]", writer)) as given:
        yield given


def _private(descriptor: int, mode: int) -> int:
    """Takes a standard stream away from whatever else runs in this process: no stray print may end in the protocol."""
    own = os.dup(descriptor)  # not inherited by the programs that are started from here
    if mode == os.O_WRONLY:
        os.dup2(2, descriptor)
    else:
        nothing = os.open(os.devnull, mode)
        os.dup2(nothing, descriptor)
        os.close(nothing)
    return own


class _Lines:
    """The messages that come, line by line. What is none is answered here: the library would answer nothing."""

    def __init__(self, descriptor: int, writer: _Writer) -> None:
        self._descriptor, self._writer = descriptor, writer
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()

        def give(line: bytes | None) -> None:
            loop.call_soon_threadsafe(self._lines.put_nowait, line)

        threading.Thread(target=_read, args=(self._descriptor, give), name="mcp-stdin", daemon=True).start()
        while (line := await self._lines.get()) is not None:
            if not line.strip():
                continue
            text = line.decode("utf-8", "replace")
            try:
                types.JSONRPCMessage.model_validate_json(text)
            except ValidationError:
                await self._writer.write(_refusal(text))
            else:
                yield text


def _read(descriptor: int, give: Callable[[bytes | None], None]) -> None:
    kept = bytearray()
    # A closed event loop is a RuntimeError: then nobody waits for more.
    with contextlib.suppress(RuntimeError):
        try:
            while len(kept) <= MAX_MESSAGE and (part := os.read(descriptor, _PART)):
                *lines, rest = part.split(b"\n")
                for line in lines:
                    give(bytes(kept + line))
                    kept.clear()
                kept += rest
        except OSError:
            pass  # a terminal that went away: the same as its end
        give(None)


def _refusal(text: str) -> str:
    """The answer to a line that is no message, under its id where it has one."""
    code, message, answered = types.PARSE_ERROR, "this is no JSON", None
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        code, message = types.INVALID_REQUEST, "this is no message of the protocol, or not all of it is Unicode"
        found = given.get("id") if isinstance(given, dict) else None
        answered = found if isinstance(found, int) or (isinstance(found, str) and found.isprintable()) else None
    return json.dumps({"jsonrpc": "2.0", "id": answered, "error": {"code": code, "message": message}}) + "\n"


class _Writer:
    """What goes out. A client that reads no more holds up nothing but what is written to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._work: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        self._begun = False

    async def write(self, text: str) -> None:
        """Writes all of it. Raises OSError where nobody can read it any more."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._write, args=(loop,), name="mcp-stdout", daemon=True).start()
        done: asyncio.Future[None] = loop.create_future()
        self._work.put((text.encode("utf-8", "replace"), done))
        await done

    async def flush(self) -> None:
        """Nothing is held back."""

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):
            while True:
                content, done = self._work.get()
                failed: OSError | None = None
                try:
                    view = memoryview(content)
                    while view:
                        view = view[os.write(self._descriptor, view) :]
                except OSError as error:
                    failed = error
                loop.call_soon_threadsafe(_settle, done, failed)


def _settle(done: asyncio.Future[None], failed: OSError | None) -> None:
    if done.done():
        return  # cancelled meanwhile
    if failed is None:
        done.set_result(None)
    else:
        done.set_exception(failed)
