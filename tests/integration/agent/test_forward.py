"""The agent's part of the way out: what code in the kernel is told of it, and that bytes go to the socket and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.agent.controller import AgentProcess, Controller

ASK = (
    "import os, socket, urllib.parse\n"
    "def ask(said):\n"
    "    with socket.create_connection(('127.0.0.1', urllib.parse.urlsplit(os.environ['HTTP_PROXY']).port)) as way:\n"
    "        way.sendall(said)\n"
    "        way.shutdown(socket.SHUT_WR)\n"
    "        return b''.join(iter(lambda: way.recv(65536), b''))\n"
)


@pytest.fixture
async def echo(folder: Path) -> AsyncIterator[asyncio.Server]:
    """In the proxy's place: says everything again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(folder / "proxy.sock"))
    yield server
    server.close()


async def refusing(folder: Path) -> asyncio.Server:
    """In the proxy's place: says a word and hangs up, whatever it was asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    return await asyncio.start_unix_server(serve, str(folder / "proxy.sock"))


async def start(controller: Controller, *, proxy: bool, env: dict[str, str] | None = None) -> None:
    await controller.start_kernel()
    controller.claim(env or {}, proxy=proxy)


async def test_bytes_go_to_the_socket_and_back_also_from_a_later_kernel(
    agent: AgentProcess, controller: Controller, echo: asyncio.Server
) -> None:
    await start(controller, proxy=True)
    record = await controller.run("e1", ASK + "print(ask(b'hello'), len(ask(b'x' * 3_000_000)))")
    assert record.text() == "b'hello' 3000000\n"
    await controller.restart()
    assert (await controller.run("e2", ASK + "print(ask(b'again'))")).text() == "b'again'\n"


async def test_the_usual_variables_name_it_and_those_of_the_session_come_first(
    agent: AgentProcess, controller: Controller, echo: asyncio.Server
) -> None:
    await start(controller, proxy=True, env={"NO_PROXY": "mine"})
    names = "('HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY', 'http_proxy')"
    record = await controller.run(
        "e1",
        f"import os\nprint(len({{os.environ[n] for n in {names}}}), os.environ['NO_PROXY'], os.environ['no_proxy'])",
    )
    assert record.text() == "1 mine localhost,127.0.0.1,::1\n"


async def test_without_a_proxy_a_connection_ends_and_the_next_one_is_tried_anew(
    agent: AgentProcess, controller: Controller, folder: Path
) -> None:
    await start(controller, proxy=True)
    hang_up = "try:\n    print(ask(b'hello'))\nexcept OSError:\n    print(b'')"
    assert (await controller.run("e1", ASK + hang_up)).text() == "b''\n"

    async with await refusing(folder):
        assert (await controller.run("e2", ASK + "print(ask(b'hello'))")).text() == "b'here'\n"


async def test_an_answer_given_before_the_request_was_read_arrives(
    agent: AgentProcess, controller: Controller, folder: Path
) -> None:
    async with await refusing(folder):
        await start(controller, proxy=True)
        asked = "print([ask(b'x' * size) for size in (1, 100, 1_000_000) for _ in range(50)] == [b'here'] * 150)"
        assert (await controller.run("e1", ASK + asked)).text() == "True\n"


async def test_a_kernel_that_has_no_way_out_is_told_of_none(agent: AgentProcess, controller: Controller) -> None:
    await start(controller, proxy=False)
    record = await controller.run("e1", "import os\nprint([name for name in os.environ if 'PROXY' in name.upper()])")
    assert record.text() in ("[]\n", "['NO_PROXY']\n", "['no_proxy']\n")
