"""Both ends of flows, back to back: credit bounds what waits, flows take turns, and neither end trusts the other."""

from __future__ import annotations

import asyncio

import pytest

from cellyard_controller.sandboxes.flows import (
    Content,
    Done,
    Flow,
    FlowBroken,
    FlowFailed,
    Flows,
    ListFolder,
    Opened,
    ReadFile,
    RunCommand,
    WriteFile,
    entries,
)
from cellyard_proto.flows import CHUNK, FRAME_COST, MAX_FLOWS, WINDOW, cost
from cellyard_proto.v1 import link_pb2 as link
from cellyard_sandbox import flows as agent

ENDED = link.FlowEnded()


class Echo(agent.Work):
    """Gives back what it takes, or so many bytes of its own, in pieces of this size."""

    def __init__(self, own: int = 0, piece: int = CHUNK) -> None:
        self.waiting = bytearray(b"o" * own)
        self.piece = piece
        self.closed = False

    def take(self, content: bytes) -> int:
        self.waiting += content
        return cost(content)

    def input_ended(self) -> None:
        if not self.waiting:
            self.ended = ENDED

    def give(self, room: int) -> link.FlowFrame | None:
        if not self.waiting:
            return None
        part = bytes(self.waiting[: min(room, self.piece)])
        del self.waiting[: len(part)]
        if not self.waiting:
            self.ended = ENDED
        return link.FlowFrame(content=part)

    def close(self) -> None:
        self.closed = True


class Pair:
    """A controller's flows and an agent's. What the agent has to send waits until it is carried."""

    def __init__(self, *works: agent.Work) -> None:
        self.works = list(works)
        self.begun = 0
        self.sent: list[link.FlowFrame] = []
        self.up = True
        self.woken = 0
        self.agent = agent.Flows(self._begin, self._woken)
        self.controller = Flows(lambda message: self.agent.receive(message.flow), lambda: self.up)

    def _begin(self, order: link.OpenFlow, waker: agent.Waker) -> agent.Work:
        self.begun += 1
        return self.works.pop(0)

    def _woken(self) -> None:
        self.woken += 1

    def carry(self, most: int = 1_000_000) -> int:
        """Carries what the agent has to send now; returns how many frames."""
        count = 0
        while count < most and (message := self.agent.next_frame()) is not None:
            self.sent.append(message.flow)
            self.controller.heard(message.flow)
            count += 1
        return count


READ = ReadFile("a", 1 << 30)


@pytest.mark.parametrize("piece", [1, CHUNK])
async def test_an_agent_sends_no_more_than_is_read(piece: int) -> None:
    pair = Pair(Echo(own=10 * WINDOW, piece=piece))
    async with pair.controller.open(READ) as flow:
        pair.carry()
        assert sum(cost(frame.content) for frame in pair.sent if frame.content) <= WINDOW
        assert isinstance(await flow.next(), Opened)
        assert pair.carry() == 0
        read = 0
        while read < 3 * CHUNK:
            said = await flow.next()
            assert isinstance(said, Content)
            read += len(said.content)
            pair.carry()
        assert sum(cost(frame.content) for frame in pair.sent if frame.content) <= WINDOW + read * (1 + FRAME_COST)


async def test_a_controller_sends_no_more_than_the_agent_has_taken() -> None:
    work = Echo()
    pair = Pair(work)
    async with pair.controller.open(WriteFile("a", 1 << 30)) as flow:
        sending = asyncio.create_task(flow.send(b"x" * 10 * WINDOW))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(work.waiting) <= WINDOW
        assert not sending.done()
        while not sending.done():
            pair.carry(1)
            if flow._heard:
                await flow.next()
            await asyncio.sleep(0)


async def test_flows_take_turns() -> None:
    pair = Pair(Echo(own=4 * CHUNK), Echo(own=4 * CHUNK))
    async with pair.controller.open(READ), pair.controller.open(READ):
        pair.carry()
        order = [frame.flow for frame in pair.sent if frame.content]
        assert order == [1, 2] * 4


async def test_what_nobody_wants_any_more_is_closed_and_what_comes_late_is_dropped() -> None:
    work = Echo(own=CHUNK)
    pair = Pair(work)
    async with pair.controller.open(READ):
        late = pair.agent.next_frame()
    assert work.closed
    assert late is not None
    pair.controller.heard(late.flow)
    assert pair.carry() == 0


async def test_a_flow_that_is_refused_at_once_is_told_at_once() -> None:
    class Refused(agent.Work):
        def __init__(self) -> None:
            raise agent.refused("no")

    pair = Pair()
    pair.agent = agent.Flows(lambda order, waker: Refused(), pair._woken)
    async with pair.controller.open(READ) as flow:
        assert pair.woken > 0
        pair.carry()
        with pytest.raises(FlowFailed, match="no"):
            await flow.next()


async def test_a_refusal_names_its_kind() -> None:
    class Full(agent.Work):
        def take(self, content: bytes) -> int:
            raise agent.FlowRefused(link.FLOW_ERROR_USED_UP, "full")

    pair = Pair(Full())
    async with pair.controller.open(WriteFile("a", 100)) as flow:
        await flow.send(b"x")
        pair.carry()
        with pytest.raises(FlowFailed, match="full") as refused:
            await flow.send(b"more")
        assert refused.value.kind == "used_up"
    assert pair.carry() == 0


async def test_an_agent_takes_so_many_flows_at_a_time_and_no_more() -> None:
    works = [Echo(own=1) for _ in range(MAX_FLOWS + 1)]
    pair = Pair(*works)
    for number in range(1, MAX_FLOWS + 2):
        pair.agent.receive(link.FlowFrame(flow=number, open=link.OpenFlow()))
    assert pair.begun == MAX_FLOWS
    pair.agent.drop()
    assert [work.closed for work in works] == [True] * MAX_FLOWS + [False]
    assert pair.agent.next_frame() is None


async def test_without_a_connection_a_flow_is_broken_and_one_under_way_too() -> None:
    pair = Pair(Echo(), Echo())
    pair.up = False
    async with pair.controller.open(READ) as flow:
        with pytest.raises(FlowBroken):
            await flow.next()
    pair.up = True
    async with pair.controller.open(READ) as flow:
        waiting = asyncio.create_task(flow.done())
        await asyncio.sleep(0)
        pair.controller.broken()
        with pytest.raises(FlowBroken):
            await waiting


def frames(number: int, count: int, content: bytes) -> list[link.FlowFrame]:
    return [link.FlowFrame(flow=number, content=content)] * count


@pytest.mark.parametrize(
    "hostile",
    [
        frames(1, 5, b"x" * CHUNK),
        frames(1, 1, b"x" * (CHUNK + 1)),
        frames(1, 2_000, b""),
        [link.FlowFrame(flow=1, credit=1)],
        [link.FlowFrame(flow=1, credit=-1)],
        [link.FlowFrame(flow=1, credit=1 << 60)],
        [link.FlowFrame(flow=1, opened=link.FlowOpened())] * 2,
        [link.FlowFrame(flow=1, open=link.OpenFlow())],
        [link.FlowFrame(flow=1)],
    ],
    ids=["flood", "long", "many", "credit", "negative", "huge", "twice", "opens", "empty"],
)
async def test_what_an_agent_may_not_say_ends_its_connection(hostile: list[link.FlowFrame]) -> None:
    controller = Flows(lambda message: None, lambda: True)

    def hear() -> None:
        for frame in hostile:
            controller.heard(frame)

    async with controller.open(RunCommand(("x",), 0.0, 100)):
        with pytest.raises(ValueError, match=r"."):
            hear()


async def test_more_of_a_file_than_was_asked_for_is_refused() -> None:
    controller = Flows(lambda message: None, lambda: True)
    async with controller.open(ReadFile("a", 10)):
        with pytest.raises(ValueError, match="more content"):
            controller.heard(link.FlowFrame(flow=1, content=b"x" * 11))


async def test_frames_of_flows_that_are_not_there_are_nothing() -> None:
    controller = Flows(lambda message: None, lambda: True)
    controller.heard(link.FlowFrame(flow=7, content=b"x" * 1_000_000))
    async with controller.open(ListFolder("")) as flow:
        controller.heard(link.FlowFrame(flow=1, ended=link.FlowEnded()))
        controller.heard(link.FlowFrame(flow=1, content=b"late"))
        assert await flow.next() == Done()
        assert isinstance(flow, Flow)


def test_a_list_that_is_none_is_an_error_and_no_crash() -> None:
    with pytest.raises(FlowFailed, match="cannot be read"):
        entries(b"\xff\xff\xff")
