"""The Model Context Protocol over HTTP: streamable HTTP, and the older transport by server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from cellyard.codemode.tools.mcp_stdio import MAX_MESSAGE, Streams

CONNECT = 10.0
"""Seconds for a connection to a server."""


@asynccontextmanager
async def streamable_http(url: str, headers: Mapping[str, str], timeout: float) -> AsyncIterator[Streams]:
    """Speaks to a server by streamable HTTP. `timeout` is how long an answer may take to begin, in seconds."""
    async with (
        _BoundedClient(headers=dict(headers), timeout=httpx.Timeout(CONNECT, read=timeout)) as client,
        streamable_http_client(url, http_client=client) as (read, write, _),
    ):
        yield read, write


@asynccontextmanager
async def server_sent_events(url: str, headers: Mapping[str, str], timeout: float) -> AsyncIterator[Streams]:
    """Speaks to a server by the older transport, whose one stream of events may be silent for as long as it likes."""
    async with sse_client(
        url,
        headers=dict(headers),
        timeout=CONNECT,
        sse_read_timeout=max(timeout, 24 * 3600.0),
        httpx_client_factory=_bounded,
    ) as (
        read,
        write,
    ):
        yield read, write


class _BoundedClient(httpx.AsyncClient):
    """Reads no more than a message may have of an answer to a message, or of one event of a stream."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        # What is compressed could be far larger than what is counted here.
        request.headers["Accept-Encoding"] = "identity"
        response = await super().send(request, **options)
        if "Content-Encoding" in response.headers:
            await response.aclose()
            raise httpx.RemoteProtocolError("the answer is compressed, which it was not asked to be")
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Bounded(response.stream, by_event=request.method == "GET")
        return response


def _bounded(
    headers: dict[str, str] | None = None, timeout: httpx.Timeout | None = None, auth: httpx.Auth | None = None
) -> httpx.AsyncClient:
    return _BoundedClient(headers=headers, timeout=timeout, auth=auth)


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, *, by_event: bool) -> None:
        self._stream = stream
        self._by_event = by_event

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_MESSAGE
        end = b""
        async for piece in self._stream:
            left -= len(piece)
            if self._by_event:
                end = end[-3:] + piece
                if b"\n\n" in end or b"\r\n\r\n" in end or b"\r\r" in end:
                    left = MAX_MESSAGE
            if left < 0:
                raise httpx.RemoteProtocolError(f"the answer is longer than {MAX_MESSAGE // 1024 // 1024} MiB")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
