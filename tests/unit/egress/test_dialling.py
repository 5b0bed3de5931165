"""From a name to a connection: looked up once, every address checked, and no other one connected to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from cellyard_controller.egress import addresses, dialling
from cellyard_controller.egress.dialling import Dialler, Unreachable
from cellyard_controller.egress.names import Destination
from cellyard_controller.egress.targets import PRIVATE_ADDRESS, Denied


class Names:
    """A resolver whose answers change, as those of somebody who wants to get inside."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        return self.answers.pop(0)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server on 127.0.0.1 that says who it is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(
    "found",
    [
        ["10.0.0.1"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["fe80::1%lo"],
        ["1.1.1.1", "10.0.0.1"],
        ["1.1.1.1", "2606:4700:4700::1111", "::1"],
    ],
)
async def test_one_address_that_is_not_public_refuses_the_name(found: list[str]) -> None:
    dialler = Dialler({}, Names(found))
    with pytest.raises(Denied) as denied:
        await dialler.dial(Destination("inside.test", 80))
    assert denied.value.denial.reason == PRIVATE_ADDRESS
    dialler.close()


async def test_a_name_is_looked_up_once_and_connected_to_what_was_checked(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(addresses, "public", lambda address: not checked.append(address))
    monkeypatch.setattr(addresses, "of_this_machine", lambda _: False)
    names = Names(["127.0.0.1"], ["192.0.2.1"])
    dialler = Dialler({}, names)
    reader, writer = await dialler.dial(Destination("rebinds.test", port))
    assert await reader.read() == b"here"
    assert (names.asked, checked) == (["rebinds.test"], ["127.0.0.1"])
    writer.close()
    dialler.close()


async def test_a_name_that_the_operator_maps_is_not_looked_up_and_may_lead_inside(port: int) -> None:
    names = Names()
    dialler = Dialler({"mirror.test": "127.0.0.1"}, names)
    reader, writer = await dialler.dial(Destination("mirror.test", port))
    assert await reader.read() == b"here"
    assert names.asked == []
    writer.close()
    dialler.close()


async def test_a_resolver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "RESOLVE_WITHIN", 0.05)
    answered = threading.Event()

    def lookup(_: str) -> list[str]:
        answered.wait(20)
        return []

    dialler = Dialler({}, lookup)
    with pytest.raises(Unreachable, match="was not resolved"):
        await dialler.dial(Destination("slow.test", 80))
    answered.set()
    dialler.close()


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    dialler = Dialler({"mirror.test": "127.0.0.1"}, Names())
    with pytest.raises(Unreachable, match="cannot be reached"):
        await dialler.dial(Destination("mirror.test", 1))
    dialler.close()


async def test_a_name_that_nobody_knows_is_unreachable() -> None:
    def lookup(_: str) -> list[str]:
        raise OSError("Name or service not known")

    dialler = Dialler({}, lookup)
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await dialler.dial(Destination("nobody.test", 80))
    dialler.close()
