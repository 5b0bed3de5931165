"""The life of the server: from its settings until stdin ends, or somebody ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.server.lowlevel import Server

from cellyard import endpoint
from cellyard._async.client import AsyncClient
from cellyard._async.session import AsyncSession
from cellyard.mcp import bounds, http, server, stdio
from cellyard.mcp.notebooks import Notebooks


@dataclass(frozen=True, slots=True)
class Settings:
    """What `cellyard mcp` was told."""

    endpoint: str | None = None
    token: str | None = None
    notebook: str | None = None
    """The server's own notebook; None for a fresh one."""
    template: str | None = None
    network: str | None = None
    require: tuple[str, ...] = ()
    timeout: float | None = 60.0
    """Seconds for code whose caller names none; None for no limit."""
    limit: int = bounds.DEFAULT_CHARACTERS
    """Characters of text in a result."""


def over_stdio(settings: Settings) -> None:
    """Serves the client that started this process, until stdin ends or a signal comes.

    Raises InvalidRequest for settings that cannot be; where the controller is not there, tools say so.
    """
    _run(settings, _stdio)


def over_http(settings: Settings, where: http.Address, token_file: Path, ready: Callable[[str], None]) -> None:
    """Serves any number of clients until a signal comes. `ready` is told the URL.

    Raises InvalidRequest for settings that cannot be, PermissionDenied for a token that others can read.
    """
    token = http.token_file(token_file)
    with contextlib.closing(http.bind(where)) as listening:

        async def work(made: Server[Any, Any], stop: asyncio.Event) -> None:
            port = listening.getsockname()[1]
            ready(f"http://{where.hosts(port)[0]}{http.PATH}")
            await http.serve(made, listening, where, token, stop)

        _run(settings, work)


Work = Callable[[Server[Any, Any], asyncio.Event], Coroutine[Any, Any, None]]


def _run(settings: Settings, work: Work) -> None:
    endpoint.resolve(settings.endpoint, settings.token)  # what can never be reached is said now
    # stdout may be the protocol's; and what clients send, code among it, belongs into no log.
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="cellyard: %(message)s")
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    asyncio.run(_serve(settings, work))


async def _serve(settings: Settings, work: Work) -> None:
    def session(notebook_id: str) -> AsyncSession:
        return AsyncSession(
            notebook_id,
            endpoint=settings.endpoint,
            token=settings.token,
            template=settings.template,
            network=settings.network,
            require=settings.require,
        )

    def client() -> AsyncClient:
        return AsyncClient(settings.endpoint, settings.token)

    async def look_for(notebook_id: str) -> None:
        async with client() as asking:
            await asking.list_executions(notebook_id, 1)

    stop = asyncio.Event()
    with _signals(stop):
        notebooks = Notebooks(session, look_for, settings.notebook)
        made = server.build(notebooks, client, timeout=settings.timeout, limit=settings.limit)
        try:
            await work(made, stop)
        finally:
            await notebooks.close()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C say that it is over; more of them change nothing, for leaving does not take long."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _stdio(made: Server[Any, Any], stop: asyncio.Event) -> None:
    serving = asyncio.create_task(_talk(made))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    serving.cancel()
    await asyncio.wait([serving])
    if not serving.cancelled() and (failure := serving.exception()) is not None and not _only_gone(failure):
        raise failure


async def _talk(made: Server[Any, Any]) -> None:
    async with stdio.streams() as (read, write):
        await made.run(read, write, made.create_initialization_options())


def _only_gone(failure: BaseException) -> bool:
    """Whether nothing happened but that the client reads no more."""
    if isinstance(failure, BaseExceptionGroup):
        return all(_only_gone(each) for each in failure.exceptions)
    return isinstance(failure, OSError)
