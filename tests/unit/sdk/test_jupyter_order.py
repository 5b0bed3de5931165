"""Two streams of one notebook in one order: whatever the watch does, nothing is missing, and nothing is told twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellyard.jupyter import order
from cellyard.jupyter.order import Order


class Shown:
    """What an Order has shown, and what the watch told beside it."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.order = Order(lambda execution_id, event: self.all.append(event))


async def test_what_comes_by_the_watch_alone_keeps_its_place() -> None:
    shown = Shown()
    shown.order.watch_began()
    shown.order.begin("a")
    shown.order.accepted("a")
    waiting = asyncio.create_task(shown.order.reached("a", 1, "one"))
    await asyncio.sleep(0)
    assert shown.all == []
    shown.all.append("widget")
    shown.order.told("a", 1, "one")
    await waiting
    shown.order.told("a", 2, "two")
    await shown.order.reached("a", 2, "two")
    shown.order.told("a", 9, "late")
    assert shown.all == ["widget", "one", "two", "late"]


async def test_what_the_watch_told_before_the_execution_was_known_is_shown() -> None:
    shown = Shown()
    shown.order.watch_began()
    shown.order.accepted("a")
    shown.order.told("a", 1, "one")
    shown.order.told("of another", 1, "none of ours")
    shown.order.begin("a")
    assert shown.all == ["one"]


async def test_without_a_watch_nothing_waits() -> None:
    shown = Shown()
    shown.order.begin("a")
    await shown.order.reached("a", 1, "one")
    shown.order.watch_began()
    waiting = asyncio.create_task(shown.order.reached("a", 3, "three"))
    await asyncio.sleep(0)
    shown.order.watch_broke()
    await waiting
    assert shown.all == ["one", "three"]


async def test_a_watch_that_is_behind_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "PATIENCE_S", 0.0)
    shown = Shown()
    shown.order.watch_began()
    shown.order.begin("a")
    shown.order.accepted("a")
    await shown.order.reached("a", 1, "one")
    monkeypatch.setattr(order, "PATIENCE_S", 1e6)
    await shown.order.reached("a", 2, "two")
    shown.order.told("a", 1, "one")
    shown.order.told("a", 2, "two")  # it has caught up, and sets the order again
    waiting = asyncio.create_task(shown.order.reached("a", 3, "three"))
    await asyncio.sleep(0)
    assert shown.all == ["one", "two"]
    shown.order.told("a", 3, "three")
    await waiting
    assert shown.all == ["one", "two", "three"]


STEPS = st.lists(st.sampled_from(["stream", "watch", "break", "begin", "begin from the middle"]), max_size=40)


@settings(deadline=None)
@given(steps=STEPS, gaps=st.lists(st.integers(1, 3), min_size=8, max_size=8))
async def test_whatever_breaks_all_is_shown_once_and_in_order(steps: list[str], gaps: list[int]) -> None:
    """Numbers have gaps, because events that nobody sees are numbered too."""
    numbers = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    shown = Shown()
    shown.order.begin("a")
    by_watch = len(numbers)  # the next one that the watch tells; it tells nothing yet
    tasks: list[asyncio.Task[None]] = []
    streamed = 0
    for step in steps:
        if step == "stream" and streamed < len(numbers) and all(task.done() for task in tasks):
            number = numbers[streamed]
            streamed += 1
            tasks.append(asyncio.create_task(shown.order.reached("a", number, number)))
        elif step == "watch" and by_watch < len(numbers):
            shown.order.told("a", numbers[by_watch], numbers[by_watch])
            by_watch += 1
        elif step == "break":
            by_watch = len(numbers)
            shown.order.watch_broke()
        elif step == "begin" and not shown.all:
            by_watch = 0
            shown.order.watch_began()
            shown.order.accepted("a")
        elif step == "begin from the middle":
            by_watch = min(streamed, len(numbers))
            shown.order.watch_began()
        await asyncio.sleep(0)
    shown.order.watch_broke()
    await asyncio.gather(*tasks)
    for number in numbers[streamed:]:
        await shown.order.reached("a", number, number)
    assert shown.all == numbers
