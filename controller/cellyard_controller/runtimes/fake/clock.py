"""Time for fakes: the event loop's, or one that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Protocol


class Clock(Protocol):
    """What a fake needs of time. Seconds."""

    def time(self) -> float:
        """Now, from any start."""

    async def sleep(self, seconds: float) -> None:
        """Returns that much later."""


class LoopClock:
    """The event loop's time."""

    def time(self) -> float:
        """Now."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Returns that much later."""
        await asyncio.sleep(seconds)


class ManualClock:
    """Stands still but for `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    def time(self) -> float:
        """The sum of all that it was advanced by."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Returns once the clock was advanced that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), waker))
        self._slept.set()
        await waker

    @property
    def sleeping(self) -> int:
        """How many wait for a time to come."""
        return sum(not waker.done() for _, _, waker in self._sleepers)

    async def until_sleeping(self, count: int) -> None:
        """Returns once at least so many wait."""
        while self.sleeping < count:
            self._slept.clear()
            await self._slept.wait()

    def advance(self, seconds: float) -> None:
        """Moves the time on and wakes whoever waited for that, in the order of their times."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, waker = heapq.heappop(self._sleepers)
            if not waker.done():
                waker.set_result(None)
