"""Whoever holds connections without asking for anything keeps nobody out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mcp.server.lowlevel import Server

from cellyard.mcp import http

TOKEN = "t" * 43
WITHIN_S = 60.0


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server without tools; its port."""
    where = http.address("127.0.0.1:0", (), insecure=False)
    stop = asyncio.Event()
    with http.bind(where) as listening:
        port = int(listening.getsockname()[1])
        task = asyncio.create_task(http.serve(Server("empty"), listening, where, TOKEN, stop))
        yield port
        stop.set()
        async with asyncio.timeout(WITHIN_S):
            await task


async def _rest(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(WITHIN_S):
        return await reader.read()


async def test_a_connection_over_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_WITHIN_S", 0.3)
    async with serving() as port:
        for said in (b"", b"POST /mcp HTTP/1.1\r\nHost: x\r\nX: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            assert await _rest(reader) == b""
            writer.close()


async def test_who_has_no_token_is_told_so_before_anything_is_read_and_gets_no_second_request() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n")
        answer = await _rest(reader)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1") == 1
        writer.close()


async def test_a_request_that_says_it_is_too_large_is_refused_before_it_comes() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {http.MAX_BODY + 1}\r\n\r\n".encode()
        )
        async with asyncio.timeout(WITHIN_S):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_what_is_no_http_is_refused() -> None:
    async with serving() as port:
        for said in (b"\x16\x03\x01\x02\x00" + b"\x00" * 64, b"GET " + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            try:
                answer = await _rest(reader)
            except ConnectionResetError:  # it was closed with something unread
                answer = b""
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
            writer.close()
