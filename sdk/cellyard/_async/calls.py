"""What every part of a client stands on: its connection, opened when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from cellyard import _io_async
from cellyard import endpoint as endpoints
from cellyard._async.transport import AsyncTransport, Request, Response, Stubs


class AsyncClientCalls:
    """A client's connection."""

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        *,
        tls: bool | endpoints.TLS = False,
    ) -> None:
        self._transport = AsyncTransport(lambda: endpoints.resolve(endpoint, token, tls))

    async def close(self) -> None:
        """Closes the connection; twice is fine. The next call opens it again."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, method: Callable[[Stubs], _io_async.Unary[Request, Response]], request: Request) -> Response:
        await self._connected()
        return await self._transport.call(method, request)

    async def _connected(self) -> None:
        if not self._transport.is_open:
            await self._transport.connect()
