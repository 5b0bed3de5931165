"""Everybody who watches sees every committed event once, in order, however slow they are."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellyard_controller.executions import log as log_module
from cellyard_controller.executions.log import EventLog
from cellyard_controller.executions.model import Event, Notice


class Committed:
    """Stands for the store: what was published is committed before."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.log = EventLog(0, self.fetch)

    async def fetch(self, after: int) -> list[Event]:
        await asyncio.sleep(0)
        return [event for event in self.events if event.seq > after][:3]

    def publish(self, count: int, *, finish: bool = False, size: int = 10) -> None:
        first = len(self.events) + 1
        new = [Event(seq, "output", {}) for seq in range(first, first + count)]
        if finish:
            new.append(Event(first + count, "finished", {}))
        self.events += new
        self.log.publish(new, [size] * len(new))


async def read(log: EventLog, after: int, pause: int) -> list[int]:
    seqs = []
    async for item in log.follow(after):
        if isinstance(item, Event):
            seqs.append(item.seq)
        for _ in range(pause):
            await asyncio.sleep(0)
    return seqs


@given(
    batches=st.lists(st.integers(0, 6), max_size=12),
    readers=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4)), min_size=1, max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_no_gap_and_no_double_for_any_reader(batches: list[int], readers: list[tuple[int, int]]) -> None:
    async def scenario() -> None:
        committed = Committed()
        tasks = [asyncio.ensure_future(read(committed.log, after, pause)) for after, pause in readers]
        for count in batches:
            committed.publish(count, size=log_module.WINDOW // 3)
            await asyncio.sleep(0)
        committed.publish(0, finish=True)
        last = len(committed.events)
        for (after, _), task in zip(readers, tasks, strict=True):
            assert await asyncio.wait_for(task, 5) == list(range(after + 1, last + 1))

    asyncio.run(scenario())


async def test_a_late_reader_of_an_ended_execution_gets_all_of_it() -> None:
    committed = Committed()
    committed.publish(7, finish=True)
    late = EventLog(8, committed.fetch, finished=True)
    assert await read(late, 0, 0) == list(range(1, 9))


async def test_only_the_newest_notice_is_told() -> None:
    committed = Committed()
    committed.log.tell(Notice("queued", {"ahead": 2}))
    committed.log.tell(Notice("queued", {"ahead": 1}))
    stream = committed.log.follow(0)
    assert await anext(stream) == Notice("queued", {"ahead": 1})
    committed.publish(0, finish=True)
    finished = await anext(stream)
    assert isinstance(finished, Event)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
