"""Two controllers behind HAProxy with the packaged configuration: health, turns, and one of them that goes away."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.authority import Authority

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import tenants_pb2 as te

from .balancer import Balancer
from .conftest import Stubs, Yard

WITHIN = 60.0


class Visitor(Stubs):
    """A client with one connection, and nothing that would heal what is cut."""

    def __init__(self, endpoint: str, ca: Path, token: str) -> None:
        super().__init__(grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(ca.read_bytes())))
        self._proof = (("authorization", f"Bearer {token}"),)

    async def write_note(self, notebook: str) -> None:
        """Makes a notebook, where the call comes to."""
        await self.notebooks.CreateCell(
            nb.CreateCellRequest(notebook_id=notebook, cell_id="note"), metadata=self._proof, timeout=WITHIN
        )

    async def who_answers(self) -> str:
        """The controller that a call comes to: each has a notebook of its own name."""
        listed = await self.notebooks.List(nb.ListNotebooks(), metadata=self._proof, timeout=WITHIN)
        (name,) = {each.notebook_id for each in listed.notebooks} & {"node1", "node2"}
        return str(name)

    async def follow(self, source: str) -> str:
        """Runs a cell, and follows the stream to its end."""
        start = ex.Start(notebook_id="runs", source=ex.NewCell(cell_id="c", source=source))
        events = [event async for event in self.executions.Execute(start, metadata=self._proof)]
        return str(events[-1].finished.value.json)

    async def healthy(self) -> bool:
        """As any gRPC client asks, without a token."""
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=WITHIN)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass
class Site:
    """What a test has: controllers that know the same token, and the balancer in front of them."""

    yards: dict[str, Yard]
    balancer: Balancer
    ca: Path
    token: str

    @asynccontextmanager
    async def visitor(self, endpoint: str) -> AsyncIterator[Visitor]:
        """Somebody who comes anew."""
        visitor = Visitor(endpoint, self.ca, self.token)
        async with visitor.channel:
            yield visitor


@pytest.fixture
async def site(folder: Path) -> AsyncIterator[Site]:
    ours = Authority(folder)
    pair = ours.sign("controllers", "localhost", "127.0.0.1")
    yards = {name: Yard(folder / name) for name in ("node1", "node2")}
    for yard in yards.values():
        yard.folder.mkdir()
    first, second = yards.values()
    # Tokens are the same where the store is; here the second controller begins with a copy of the first one's.
    created = await (await first.start()).tenants.Create(te.CreateTenant(name="alice"))
    await first.stop()
    shutil.copytree(first.folder / "data", second.folder / "data")
    balancer = None
    try:
        for name, yard in yards.items():
            listen = (f"unix:{yard.folder}/c.sock", "127.0.0.1:0")
            served = {"listen": "127.0.0.1:0"}
            await yard.start(listen=listen, tls_cert=pair.cert, tls_key=pair.key, http=served, drain_timeout=WITHIN)
            visitor = Visitor(yard.controller.addresses[1], ours.ca, created.token)
            async with visitor.channel:
                await visitor.write_note(name)
        nodes = [(yard.controller.addresses[1], yard.controller.http_address) for yard in yards.values()]
        balancer = Balancer(folder, ours, nodes)
        await balancer.until(node1=True, node2=True)
        yield Site(yards, balancer, ours.ca, created.token)
    finally:
        if balancer is not None:
            balancer.close()
        for yard in yards.values():
            await yard.close()


async def test_connections_take_turns_or_calls_do_and_grpcs_health_is_seen_through_it(site: Site) -> None:
    found: Counter[str] = Counter()
    for _ in range(4):
        async with site.visitor(site.balancer.connections) as visitor:
            names = {await visitor.who_answers() for _ in range(3)}
            assert len(names) == 1, "a connection stays where it is"
            assert await visitor.healthy()
            found.update(names)
    assert found == {"node1": 2, "node2": 2}

    async with site.visitor(site.balancer.calls) as visitor:
        assert Counter([await visitor.who_answers() for _ in range(6)]) == {"node1": 3, "node2": 3}
        assert await visitor.healthy()


async def test_who_drains_or_dies_gets_nothing_new_and_streams_end_as_they_would_have(site: Site) -> None:
    node1, node2 = site.yards.values()
    async with site.visitor(site.balancer.calls) as visitor:
        streams = [asyncio.ensure_future(visitor.follow("gate open\nvalue 42")) for _ in site.yards]
        async with asyncio.timeout(WITHIN):
            for yard in site.yards.values():  # each has one of them
                changes = yard.controller.rooms.changes
                while not yard.controller.rooms.unfinished:
                    await changes.after(changes.count)
        draining = asyncio.ensure_future(node1.controller.drain())
        await site.balancer.until(node1=False, node2=True)
        assert {await visitor.who_answers() for _ in range(6)} == {"node2"}
        for _ in range(2):
            async with site.visitor(site.balancer.connections) as another:
                assert await another.who_answers() == "node2"
        assert not any(stream.done() for stream in streams)
        node1.runtime.open("open")
        done, _ = await asyncio.wait(streams, timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
        assert [stream.result() for stream in done] == ["42"]
        await asyncio.wait_for(draining, WITHIN)

        await node1.stop()  # its ports are closed: nobody listens there
        assert {await visitor.who_answers() for _ in range(6)} == {"node2"}
        assert sum(stream.done() for stream in streams) == 1
        node2.runtime.open("open")
        assert await asyncio.wait_for(asyncio.gather(*streams), WITHIN) == ["42", "42"]


async def test_connections_that_are_made_while_nobody_knows_yet_that_one_is_gone_come_to_the_other(site: Site) -> None:
    await site.yards["node1"].stop()
    for _ in range(4):
        async with site.visitor(site.balancer.connections) as visitor:
            assert await visitor.who_answers() == "node2"
    async with site.visitor(site.balancer.calls) as visitor:
        assert {await visitor.who_answers() for _ in range(4)} == {"node2"}


async def test_more_silent_streams_of_one_client_than_a_balancer_usually_lets_through_hold_up_none(site: Site) -> None:
    async with site.visitor(site.balancer.calls) as visitor:
        health = health_pb2_grpc.HealthStub(visitor.channel)
        streams = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(120)]
        async with asyncio.timeout(WITHIN):
            for stream in streams:
                assert (await stream.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert await visitor.healthy()
        assert not any(stream.done() for stream in streams)
        for stream in streams:
            stream.cancel()
