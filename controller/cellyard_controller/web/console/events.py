"""Server-sent events: one stream to one page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from cellyard_controller.web.console.visitors import Stream

HEARTBEAT_S = 15.0
"""Seconds of silence after which a page is told that the stream lives still."""
WRITTEN_WITHIN_S = 30.0
"""A page that takes nothing for so many seconds has lost its stream."""
_JOINED = 64 * 1024
"""Characters of events that are written at once at most."""


def event(said: Any, kind: str = "") -> str:
    """One event. JSON has no line breaks, so it is a single line of data."""
    return f"{f'event: {kind}' + chr(10) if kind else ''}data: {json.dumps(said, separators=(',', ':'))}\n\n"


async def send(response: web.StreamResponse, items: AsyncGenerator[Any, None], stream: Stream) -> None:
    """Sends what comes until it ends, the page is gone, or the stream is over; raises what `items` raises.

    A page that reads slowly is waited for, and what waits meanwhile is bounded where it comes from.
    """
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items, None))
            await asyncio.wait({coming, stream.over}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if stream.over.done():
                await _write(response, event(stream.over.result(), "over"))
                return
            if not coming.done():
                await _write(response, ": still here\n\n")
                continue
            said, coming = coming.result(), None
            if said is None:
                return
            text = event(said)
            while len(text) < _JOINED:  # what is there already goes along
                coming = asyncio.ensure_future(anext(items, None))
                await asyncio.wait({coming}, timeout=0)
                if not coming.done() or coming.exception() is not None or coming.result() is None:
                    break
                text, coming = text + event(coming.result()), None
            await _write(response, text)
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await items.aclose()


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(WRITTEN_WITHIN_S):
        await response.write(text.encode())
