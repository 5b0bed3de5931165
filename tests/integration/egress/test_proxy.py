"""What the proxy refuses, and what it bears: raw bytes against the process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.integration.egress.conftest import Yard
from tests.servers import NAME, Servers

from cellyard_controller.egress import process
from cellyard_controller.egress.process import SOCKET_NAME
from cellyard_sandbox.forward import Forwarder

WITHIN = 20.0


async def say(path: Path, data: bytes, *, end: bool = True) -> bytes:
    """Everything that the proxy answers to these bytes, until it hangs up."""
    async with asyncio.timeout(WITHIN):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        try:
            if end:
                writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


def get(url: str, *headers: str) -> bytes:
    host = url.split("/")[2]
    lines = [f"GET {url} HTTP/1.1", *(headers or (f"Host: {host}",)), "", ""]
    return "\r\n".join(lines).encode()


def rights_of(pid: int) -> tuple[dict[str, str], set[str]]:
    """What the kernel says of a process, and the names of its variables."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split(":", 1) for line in lines), {name.partition("=")[0] for name in variables if name}


@pytest.fixture
def door(yard: Yard, way_out: Forwarder) -> Path:
    """The socket of a sandbox whose list has the servers."""
    return yard.folder / "sb-1" / SOCKET_NAME


async def test_a_name_that_is_not_listed_is_refused_and_told(yard: Yard, door: Path) -> None:
    answer = await say(door, b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n", end=False)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"not on this sandbox's list" in answer
    sandbox, denial = await yard.denials.get()
    assert (sandbox, denial.host, denial.port, denial.reason) == ("sb-1", "other.test", 443, "not_listed")


async def test_a_listed_name_on_another_port_is_refused(door: Path) -> None:
    assert (await say(door, get(f"http://{NAME}/hello"), end=False)).startswith(b"HTTP/1.1 403 ")


async def test_an_address_is_refused(yard: Yard, door: Path, servers: Servers) -> None:
    for host in ("127.0.0.1", "[::1]", "2130706433", "127.1"):
        answer = await say(door, get(f"http://{host}:{servers.http_port}/hello"), end=False)
        assert answer.startswith(b"HTTP/1.1 403 "), host
        assert (await yard.denials.get())[1].reason == "address"
    assert ("GET", "/secret") not in servers.asked


async def test_a_name_that_leads_to_a_private_address_is_refused_unless_the_operator_maps_it(
    yard: Yard, servers: Servers
) -> None:
    await yard.sandbox("sb-2", [f"localhost:{servers.http_port}", *servers.allow])
    door = yard.folder / "sb-2" / SOCKET_NAME
    answer = await say(door, get(f"http://localhost:{servers.http_port}/inside"), end=False)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"not on the public internet" in answer
    assert (await yard.denials.get())[1].reason == "private_address"
    assert ("GET", "/inside") not in servers.asked
    assert b"\r\n\r\nhello" in await say(door, get(f"{servers.http}/hello"), end=False)


async def test_a_host_header_that_names_another_server_is_refused(yard: Yard, door: Path, servers: Servers) -> None:
    answer = await say(door, get(f"{servers.http}/hello", "Host: other.test"), end=False)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert (await yard.denials.get())[1].reason == "host_differs"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /hello HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x05\x01\x00",
        b"GET http://a.test/ HTTP/1.1\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: " + b"x" * 200_000,
    ],
)
async def test_what_is_no_request_is_answered_and_ends(yard: Yard, door: Path, data: bytes) -> None:
    answer = await say(door, data)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 ")) or answer == b""
    assert yard.egress.starts == 1


async def test_a_body_with_two_lengths_reaches_the_server_with_one(door: Path, servers: Servers) -> None:
    request = (
        f"POST {servers.http}/upload HTTP/1.1\r\nHost: {NAME}:{servers.http_port}\r\n"
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
    )
    answer = await say(door, request.encode(), end=False)
    assert answer.startswith(b"HTTP/1.1 400 ") or b"\r\n\r\n5 " in answer


async def test_a_second_request_on_a_connection_is_not_taken(door: Path, servers: Servers) -> None:
    answer = await say(door, get(f"{servers.http}/hello") + get("http://127.0.0.1/"), end=False)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


async def test_a_sandbox_has_its_own_list_and_no_others(yard: Yard, door: Path, servers: Servers) -> None:
    await yard.sandbox("sb-2", ["*.example.org:443"])
    other = yard.folder / "sb-2" / SOCKET_NAME
    assert (await say(other, get(f"{servers.http}/hello"), end=False)).startswith(b"HTTP/1.1 403 ")
    assert (await yard.denials.get())[0] == "sb-2"
    assert (await say(door, get(f"{servers.http}/hello"), end=False)).startswith(b"HTTP/1.1 200 ")


async def test_connections_of_one_sandbox_are_bounded_and_do_not_touch_anothers(folder: Path, servers: Servers) -> None:
    yard = Yard(folder, connections=4)
    try:
        for name in ("sb-1", "sb-2"):
            await yard.sandbox(name, servers.allow)
        door, other = (folder / name / SOCKET_NAME for name in ("sb-1", "sb-2"))
        held = [await asyncio.open_unix_connection(str(door)) for _ in range(4)]
        answer = await say(door, get(f"{servers.http}/hello"), end=False)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert (await say(other, get(f"{servers.http}/hello"), end=False)).startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(WITHIN):
            while b" 200 " not in await say(door, get(f"{servers.http}/hello"), end=False):
                pass
    finally:
        await yard.close()


async def test_a_list_ends_with_its_sandbox(yard: Yard, door: Path, servers: Servers) -> None:
    reader, writer = await asyncio.open_unix_connection(str(door))
    writer.write(f"CONNECT {NAME}:{servers.https_port} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    yard.egress.close("sb-1")
    async with asyncio.timeout(WITHIN):
        await reader.read()
    writer.close()
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(str(door))


async def test_a_proxy_that_dies_is_replaced_and_its_sandboxes_notice_nothing_else(
    yard: Yard, door: Path, servers: Servers
) -> None:
    assert yard.egress.pid is not None
    os.kill(yard.egress.pid, signal.SIGKILL)
    assert (await say(door, get(f"{servers.http}/hello"), end=False)).startswith(b"HTTP/1.1 200 ")
    assert yard.egress.starts == 2


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that gives a silent proxy up sooner."""
    monkeypatch.setattr(process, "SILENT_FOR", 3.0)
    monkeypatch.setattr(process, "PING_EVERY", 0.2)


async def test_a_proxy_that_hangs_is_replaced_and_holds_nobody_up(
    impatient: None, yard: Yard, door: Path, servers: Servers
) -> None:
    hung = yard.egress.pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    assert (await say(door, get(f"{servers.http}/hello"), end=False)).startswith(b"HTTP/1.1 200 ")
    assert yard.egress.pid != hung


async def test_the_proxy_has_no_rights_and_ends_with_its_controller(yard: Yard, door: Path) -> None:
    pid = yard.egress.pid
    assert pid is not None
    status, environment = rights_of(pid)
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {str(process.PROXY_UID)}
        assert status["CapEff"].strip() == "0" * 16
        assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"].strip() == "1"
    assert environment <= {"LOCALDOMAIN", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"}
    await yard.close()
    with pytest.raises(FileNotFoundError):
        rights_of(pid)


async def test_a_large_download_goes_through_whole(door: Path, servers: Servers) -> None:
    body = os.urandom(1 << 20) * 16
    (servers.site / "large").write_bytes(body)
    answer = await say(door, get(f"{servers.http}/large"), end=False)
    assert answer.partition(b"\r\n\r\n")[2] == body
