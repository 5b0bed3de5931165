"""HTTP interfaces as tools."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from cellyard.codemode.errors import ToolCallError, ToolTimeoutError
from cellyard.codemode.tools.definitions import HttpDefinition
from cellyard.codemode.tools.http_requests import Request, data, outline, request
from cellyard.codemode.tools.parameters import Outline
from cellyard.codemode.tools.redaction import Redaction

MAX_ANSWER = 10 * 1024 * 1024
"""Bytes of an answer's content."""
MAX_REDIRECTS = 5

_SHOWN = 2000
_READ_OF_ERRORS = 16 * 1024


class HttpTool:
    """Sends a request for each call, from this machine and through the proxies that its environment names."""

    def __init__(self, definition: HttpDefinition) -> None:
        self._definition = definition
        self._outline = outline(definition)
        self._redaction = Redaction(definition.headers)
        self._client: httpx.AsyncClient | None = None

    @property
    def name(self) -> str:
        return self._definition.name

    def outline(self) -> Outline:
        return self._outline

    async def open(self) -> None:
        """Connections are made by calls."""

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def check(self, recipe: str | None, args: Mapping[str, Any]) -> None:
        request(self._definition, recipe, args)

    async def call(self, recipe: str | None, args: Mapping[str, Any]) -> Any:
        """The answer: data where it is JSON, else text, else bytes. What is fixed of the headers is in no error."""
        wanted = request(self._definition, recipe, args)
        timeout = self._definition.timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._answer(wanted)
        except TimeoutError:
            raise ToolTimeoutError(f"Tool '{self.name}' timed out after {timeout:g}s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as failure:
            raise self._failed(f"{type(failure).__name__}: {failure}") from None

    async def _answer(self, wanted: Request) -> Any:
        client = self._opened()
        sent = client.build_request(
            wanted.method,
            wanted.url,
            params=wanted.query or None,
            headers=wanted.headers,
            content=wanted.body,
        )
        origin = _origin(sent.url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await client.send(sent, stream=True)
            try:
                if response.next_request is None:
                    return await self._read(response)
                sent = response.next_request
            finally:
                await response.aclose()
            if _origin(sent.url) != origin:
                # What the definition's headers hold is for the place that it names.
                raise self._failed(
                    f"it redirects to {sent.url.scheme}://{sent.url.netloc.decode()}, which is elsewhere"
                )
        raise self._failed(f"it redirects more than {MAX_REDIRECTS} times")

    async def _read(self, response: httpx.Response) -> Any:
        content = bytearray()
        failed = response.status_code >= 400
        async for piece in response.aiter_bytes(64 * 1024):
            content += piece
            if failed and len(content) >= _READ_OF_ERRORS:
                break
            if len(content) > MAX_ANSWER:
                raise self._failed(f"its answer is longer than {MAX_ANSWER // 1024 // 1024} MiB")
        if failed:
            cut = len(content) >= _READ_OF_ERRORS
            start = self._redaction.apply(content.decode(errors="replace"), cut=cut)
            raise self._failed(f"HTTP {response.status_code}: {start[:_SHOWN]}".strip(": \n"))
        return data(bytes(content), response.headers.get("Content-Type", ""), response.charset_encoding)

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=None,  # the whole call has one
                headers={"User-Agent": "cellyard"},
                # A call leaves nothing behind that the next one would send.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._client

    def _failed(self, message: str) -> ToolCallError:
        return ToolCallError(f"Tool '{self.name}' failed: {self._redaction.apply(message)}")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
