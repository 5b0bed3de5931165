"""One test for both flavours: a `Session` looks like an `AsyncSession` whose calls run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cellyard

PROPERTIES = ("is_connected", "kernel_started", "env_source")


class InThreads:
    """A sync session or client, awaitable."""

    def __init__(self, session: cellyard.Session | cellyard.Client) -> None:
        self.sync = session

    def __getattr__(self, name: str) -> Any:
        if name == "notebook_id":
            return getattr(self.sync, name)
        if name in PROPERTIES:
            return lambda: asyncio.to_thread(getattr, self.sync, name)
        method = getattr(self.sync, name)
        if name in ("stream_execute", "stream_exec", "watch"):
            return lambda *args, **kwargs: _iterate(method(*args, **kwargs))
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)

    def __repr__(self) -> str:
        return repr(self.sync)

    async def __aenter__(self) -> InThreads:
        self.sync.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.to_thread(self.sync.__exit__, *error)


async def _iterate(events: Iterator[Any]) -> AsyncIterator[Any]:
    over = object()
    while (event := await asyncio.to_thread(next, events, over)) is not over:
        yield event


def session(flavour: str, *args: Any, **kwargs: Any) -> Any:
    """A session of either flavour."""
    if flavour == "async":
        return cellyard.AsyncSession(*args, **kwargs)
    return InThreads(cellyard.Session(*args, **kwargs))


def client(flavour: str, *args: Any, **kwargs: Any) -> Any:
    """A client of either flavour."""
    if flavour == "async":
        return cellyard.AsyncClient(*args, **kwargs)
    return InThreads(cellyard.Client(*args, **kwargs))
