"""A browser's part of the console, without the browser: a cookie, requests, and streams of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from .conftest import Yard

WITHIN = 60.0
ASKED = {"X-Cellyard": "1"}


class Events:
    """A stream of events that is open."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.seen: list[Any] = []

    async def next(self) -> tuple[str, Any]:
        """The next event: its kind, and what it says. Raises EOFError at the end."""
        kind = ""
        async with asyncio.timeout(WITHIN):
            while line := await self._response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    said = json.loads(value)
                    self.seen.append(said)
                    return kind, said
        raise EOFError

    async def until(self, happened: Callable[[Any], Any]) -> Any:
        """Reads until an event for which this is true; returns that."""
        while True:
            _, said = await self.next()
            if found := happened(said):
                return found

    async def over(self) -> str:
        """Reads to the end; returns why it is over."""
        while True:
            kind, said = await self.next()
            if kind == "over":
                return str(said)


class Browser:
    """Somebody at the console."""

    def __init__(self, yard: Yard, session: aiohttp.ClientSession) -> None:
        self.yard, self.session = yard, session
        self.cookie = ""

    @property
    def url(self) -> str:
        return self.yard.controller.http_address

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def operator_token(self) -> str:
        return (self.yard.folder / "data" / "http.token").read_text().strip()

    async def log_in(self, token: str) -> tuple[int, dict[str, Any]]:
        async with self.session.post(f"{self.url}/console/login", json={"token": token}, headers=ASKED) as answer:
            if morsel := answer.cookies.get(f"cellyard-{self.port}"):
                self.cookie = f"{morsel.key}={morsel.value}"
            return answer.status, await answer.json()

    async def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        async with self.session.get(self.url + path, headers={"Cookie": self.cookie, **headers}) as answer:
            return answer.status, await answer.text(), dict(answer.headers)

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        headers = {"Cookie": self.cookie, **(ASKED if headers is None else headers)}
        async with self.session.post(f"{self.url}/console/{path}", json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def call(self, method: str, message: dict[str, Any], tenant: str = "") -> tuple[int, Any]:
        return await self.post(f"call/{method}", {"tenant": tenant, "message": message})

    async def run(self, notebook: str, source: str, tenant: str = "") -> str:
        """Has a new cell executed; the execution's id."""
        message = {"notebook_id": notebook, "source": {"cell_id": f"c{id(source)}{len(source)}", "source": source}}
        status, accepted = await self.call("Executions.Enqueue", message, tenant)
        assert status == 200, accepted
        return str(accepted["execution_id"])

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[Events]:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(
            f"{self.url}/console/{path}", headers={"Cookie": self.cookie}, timeout=timeout
        ) as answer:
            assert answer.status == 200, await answer.text()
            yield Events(answer)
