"""Several clients of one `cellyard mcp --http`, and those who are not to get in."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.controller_process import Process
from tests.e2e.mcp.clients import WITHIN_S, HttpServer, arguments, call, data, shown

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "stranger", "version": "1"},
    },
}
ACCEPTS = {"Accept": "application/json, text/event-stream"}


@pytest.fixture
async def server(shared_controller: Process) -> AsyncIterator[HttpServer]:
    started = await HttpServer.start(shared_controller)
    yield started
    assert await started.stop() == 0


async def test_clients_of_one_server_share_its_own_notebook(server: HttpServer) -> None:
    async with server.client() as one, server.client() as other:
        await call(one, "run_code", code="x = 20")
        assert shown(await call(other, "run_code", code="x + 1")) == "21\n"
        own = (await data(one, "list_notebooks"))["own_notebook_id"]
        assert (await data(other, "list_notebooks"))["own_notebook_id"] == own
    async with server.client() as later:  # it was the server's, not theirs
        assert shown(await call(later, "run_code", code="x + 2")) == "22\n"


async def test_the_server_ends_though_clients_are_connected_and_code_runs(server: HttpServer) -> None:
    runs = asyncio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        if message == "now":
            runs.set()

    async with server.client() as model:
        code = "print('now')\nimport time\ntime.sleep(600)"
        running = asyncio.create_task(model.call_tool("run_code", {"code": code}, progress_callback=progress))
        async with asyncio.timeout(WITHIN_S):
            await runs.wait()
        assert await server.stop() == 0
        running.cancel()


async def test_nobody_gets_in_without_the_token_or_under_another_name(server: HttpServer) -> None:
    right = {**ACCEPTS, "Authorization": f"Bearer {server.token}"}
    async with httpx.AsyncClient(timeout=WITHIN_S) as http:
        missing = await http.post(server.url, json=HELLO, headers=ACCEPTS)
        wrong = await http.post(server.url, json=HELLO, headers={**ACCEPTS, "Authorization": "Bearer " + "x" * 43})
        other = await http.post(server.url, json=HELLO, headers={**ACCEPTS, "Authorization": f"Basic {server.token}"})
        assert {each.status_code for each in (missing, wrong, other)} == {401}
        assert missing.content == wrong.content == other.content
        assert server.token not in missing.text

        # A page whose name was pointed at this address sends its own name along, and its origin.
        foreign = await http.post(server.url, json=HELLO, headers={**right, "Host": "evil.example"})
        assert foreign.status_code == 421
        page = await http.post(server.url, json=HELLO, headers={**right, "Origin": "http://evil.example"})
        assert page.status_code == 403

        elsewhere = server.url.removesuffix("/mcp") + "/admin/../mcp/.."
        assert (await http.get(elsewhere, headers=right)).status_code == 404
        assert (await http.post(server.url, content=b"{" * 100, headers=right)).status_code == 400
        assert (await http.post(server.url, json=HELLO, headers=right)).status_code == 200


def test_what_would_let_others_in_is_refused_before_anything_listens(shared_controller: Process) -> None:
    flags = ["--http", "0.0.0.0:0"]
    done = subprocess.run(
        arguments(shared_controller, *flags), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--insecure-listen" in done.stderr
    assert "Traceback" not in done.stderr
