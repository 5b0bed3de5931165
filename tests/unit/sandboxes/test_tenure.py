"""Sandboxes of a controller whose lease runs out: what agents are told, and what is not begun any more."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from cellyard_controller.ids import ExecutionId, SandboxId
from cellyard_controller.sandboxes.link import AgentLink
from cellyard_controller.sandboxes.link_messages import AgentHello, FromAgent, Greeting
from cellyard_controller.sandboxes.tenure import Tenure
from cellyard_proto import PROTOCOL, framing
from cellyard_proto.v1 import link_pb2

HOUR = 3600.0


class _Owner:
    async def link_up(self, hello: AgentHello) -> Greeting:
        return Greeting(0, 1, 1, 600.0)

    async def link_ready(self) -> None: ...

    async def link_received(self, message: FromAgent) -> None: ...

    async def link_down(self) -> None: ...


class _Agent:
    """What an agent hears."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def dial(cls, link: AgentLink) -> _Agent:
        reader, writer = await asyncio.open_unix_connection(str(link.folder / "agent.sock"))
        writer.write(framing.encode(link_pb2.FromAgent(hello=link_pb2.Hello(protocol=PROTOCOL))))
        agent = cls(reader, writer)
        assert (await agent.hear()).HasField("welcome")
        return agent

    async def hear(self) -> link_pb2.ToAgent:
        async with asyncio.timeout(20):
            message = await framing.read(self._reader, link_pb2.ToAgent)
        assert message is not None
        return message

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def _link(folder: Path, tenure: Tenure) -> AgentLink:
    return AgentLink(SandboxId("sb-1"), folder / "l", os.getuid(), _Owner(), tenure)


def _dispatch(link: AgentLink, name: str) -> None:
    link.dispatch(ExecutionId(name), "1", None, "cell", allow_stdin=False, namespaces=False)


async def test_an_agent_is_told_at_once_and_with_each_renewal_how_long_it_may_go_on(folder: Path) -> None:
    tenure = Tenure()
    now = time.monotonic()
    tenure.extend(now + HOUR, now + HOUR)
    link = _link(folder, tenure)
    await link.open()
    try:
        agent = await _Agent.dial(link)
        assert HOUR - 60 < (await agent.hear()).lease.left_s <= HOUR
        tenure.extend(now + 2 * HOUR, now + HOUR)
        link.tell_tenure()
        assert (await agent.hear()).lease.left_s > HOUR
        tenure.extend(now - 1, now - 1)
        link.tell_tenure()
        assert (await agent.hear()).lease.left_s == 0
        await agent.close()
    finally:
        await link.close()


async def test_nothing_is_begun_once_half_of_the_lease_has_gone_and_all_of_it_when_it_is_renewed(folder: Path) -> None:
    tenure = Tenure()
    now = time.monotonic()
    tenure.extend(now + HOUR, now - 1)
    link = _link(folder, tenure)
    await link.open()
    try:
        agent = await _Agent.dial(link)
        assert (await agent.hear()).HasField("lease")
        _dispatch(link, "one")
        _dispatch(link, "two")
        link.interrupt(ExecutionId("before"))
        assert (await agent.hear()).interrupt.execution_id == "before", "what ends something is said"
        tenure.extend(now + HOUR, now + HOUR)
        link.tell_tenure()
        assert (await agent.hear()).HasField("lease")
        assert [(await agent.hear()).dispatch.execution_id for _ in range(2)] == ["one", "two"]
        await agent.close()
    finally:
        await link.close()


async def test_a_controller_that_is_alone_tells_agents_of_no_end(folder: Path) -> None:
    link = _link(folder, Tenure())
    await link.open()
    try:
        agent = await _Agent.dial(link)
        link.tell_tenure()
        _dispatch(link, "one")
        assert (await agent.hear()).dispatch.execution_id == "one"
        await agent.close()
    finally:
        await link.close()
