"""A connection to an MCP server, kept open between calls and made again after it broke."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import httpx
from mcp import ClientSession, McpError, types
from pydantic import ValidationError

from cellyard._version import CLIENT, VERSION
from cellyard.codemode.errors import ToolCallError
from cellyard.codemode.tools.definitions import McpDefinition
from cellyard.codemode.tools.mcp_http import server_sent_events, streamable_http
from cellyard.codemode.tools.mcp_stdio import ServerSaid, Streams, stdio
from cellyard.codemode.tools.redaction import Redaction

CONNECT_TIMEOUT = 30.0
"""Seconds for starting a server and hearing what it offers, where a call may take that long."""
MAX_TOOLS = 1000
"""Of one server."""

_END = 5.0
_SHOWN = 5000


class Connection:
    """One server. A task of its own enters and leaves what the library needs entered and left in one task."""

    def __init__(self, definition: McpDefinition) -> None:
        self._definition = definition
        self._redaction = Redaction(definition.headers)
        self._connecting = asyncio.Lock()
        self._session: ClientSession | None = None
        self._owner: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._said = ServerSaid()
        self._calls = 0
        self._notices: set[asyncio.Task[None]] = set()
        self.tools: list[types.Tool] | None = None
        """What the server offered when it was connected last; None before."""

    async def connected(self) -> ClientSession:
        """Connects where that is not so. Raises ToolCallError where it cannot."""
        async with self._connecting:
            if self._session is not None and self._owner is not None and not self._owner.done():
                if not self._ended.is_set():
                    return self._session
                await asyncio.wait([self._owner], timeout=_END)
            await self._end()
            return await self._connect()

    async def call(self, name: str, args: Mapping[str, Any]) -> types.CallToolResult:
        """Raises TimeoutError after the definition's `timeout`; ToolCallError where the server refuses, or is lost."""
        try:
            async with asyncio.timeout(self._definition.timeout):
                return await self._call(name, args)
        except TimeoutError:
            if not self._calls:
                # It may hang for good, and nobody else waits for it: the next call begins with another one.
                self._ended.set()
            raise

    async def close(self) -> None:
        """Ends the connection, and the server where it is a process: all of its group."""
        for notice in self._notices:
            notice.cancel()
        try:
            if self._notices:
                await asyncio.wait(self._notices)
        finally:
            await self._end()

    async def _call(self, name: str, args: Mapping[str, Any]) -> types.CallToolResult:
        session = await self.connected()
        owner, ended = self._owner, self._ended
        assert owner is not None
        request = asyncio.create_task(self._request(session, name, args))
        self._calls += 1
        try:
            either: list[asyncio.Future[Any]] = [request, owner]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not request.done() or (ended.is_set() and request.exception() is not None):
                await asyncio.wait([owner], timeout=_END)
                raise self._lost("the connection broke", owner)
            return self._answer(request, owner, ended)
        finally:
            self._calls -= 1
            request.cancel()

    async def _request(self, session: ClientSession, name: str, args: Mapping[str, Any]) -> types.CallToolResult:
        # The library does not tell the number that it gives to the request.
        number = session._request_id
        params = types.CallToolRequestParams(name=name, arguments=dict(args))
        try:
            return await session.send_request(
                types.ClientRequest(types.CallToolRequest(params=params)), types.CallToolResult
            )
        except asyncio.CancelledError:
            notice = asyncio.create_task(_cancelled(session, number))
            self._notices.add(notice)
            notice.add_done_callback(self._notices.discard)
            raise

    async def _connect(self) -> ClientSession:
        self._ended = asyncio.Event()
        self._said = ServerSaid()
        ready: asyncio.Future[ClientSession] = asyncio.get_running_loop().create_future()
        owner = self._owner = asyncio.create_task(self._own(ready, self._ended))
        limit = min(CONNECT_TIMEOUT, self._definition.timeout)
        try:
            either: list[asyncio.Future[Any]] = [ready, owner]
            await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            owner.cancel()
            raise
        if ready.done() and not ready.cancelled():
            self._session = ready.result()
            return self._session
        in_time = owner.done()
        await self._end(at_once=True)
        raise self._lost("it cannot be connected" if in_time else f"it did not answer within {limit:g} s", owner)

    async def _own(self, ready: asyncio.Future[ClientSession], ended: asyncio.Event) -> None:
        info = types.Implementation(name=CLIENT, version=VERSION)
        async with self._transport(ended) as (read, write), ClientSession(read, write, client_info=info) as session:
            await session.initialize()
            self.tools = await _tools(session)
            if not ready.done():
                ready.set_result(session)
            await ended.wait()

    def _transport(self, ended: asyncio.Event) -> AbstractAsyncContextManager[Streams]:
        definition = self._definition
        # A little more, so that it is the call's own limit that ends a call.
        timeout = definition.timeout + 5
        if definition.transport == "http" and definition.url is not None:
            return streamable_http(definition.url, definition.headers, timeout)
        if definition.transport == "sse" and definition.url is not None:
            return server_sent_events(definition.url, definition.headers, timeout)
        argv = [definition.command or "", *definition.args]
        return stdio(argv, {**os.environ, **definition.env}, self._said, ended.set)

    async def _end(self, *, at_once: bool = False) -> None:
        """Leaves the connection. A server that holds that up, or a caller that is cancelled, has it cut."""
        owner, self._session = self._owner, None
        if owner is None:
            return
        self._ended.set()
        try:
            if not at_once:
                await asyncio.wait([owner], timeout=_END)
        finally:
            owner.cancel()
            await asyncio.wait([owner], timeout=_END)
            if owner.done() and not owner.cancelled():
                owner.exception()  # seen

    def _answer(
        self, request: asyncio.Task[types.CallToolResult], owner: asyncio.Task[None], ended: asyncio.Event
    ) -> types.CallToolResult:
        try:
            return request.result()
        except McpError as refusal:
            if refusal.error.message == "Session terminated":  # the library's word for a server that forgot us
                ended.set()
                raise ToolCallError("the server has ended the session; the next call begins another") from None
            raise ToolCallError(self._redaction.apply(refusal.error.message)[:_SHOWN]) from None
        except ValidationError:
            raise ToolCallError("the server's answer is none that the protocol has") from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            ended.set()
            raise self._lost("the connection broke", owner) from None

    def _lost(self, what: str, owner: asyncio.Task[None]) -> ToolCallError:
        why = ""
        if owner.done() and not owner.cancelled() and (failure := owner.exception()):
            why = _reason(failure)
        told = "; ".join(part for part in (what, why, str(self._said)) if part)
        return ToolCallError(self._redaction.apply(told)[:_SHOWN])


async def _cancelled(session: ClientSession, number: int) -> None:
    params = types.CancelledNotificationParams(requestId=number, reason="nobody waits for it any more")
    try:
        await session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
    except (anyio.ClosedResourceError, anyio.BrokenResourceError):
        pass  # then there is nothing to cancel


async def _tools(session: ClientSession) -> list[types.Tool]:
    found: list[types.Tool] = []
    cursor: str | None = None
    while len(found) <= MAX_TOOLS:
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        found += page.tools
        if not page.nextCursor or not page.tools:
            return found
        cursor = page.nextCursor
    raise ToolCallError(f"it offers more than {MAX_TOOLS} tools")


def _reason(failure: BaseException) -> str:
    """The first thing that went wrong, in words that hold no address and no header."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if isinstance(failure, httpx.HTTPStatusError):
        return f"HTTP {failure.response.status_code}"
    if isinstance(failure, OSError) and failure.strerror:
        return f"{failure.filename}: {failure.strerror}" if failure.filename else failure.strerror
    if isinstance(failure, ValidationError):
        return "its answer is none that the protocol has"
    return str(failure) or type(failure).__name__
