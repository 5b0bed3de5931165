"""What has been committed of one execution, for those who watch it.

A room publishes; any number of subscriptions read at their own pace. The log keeps the last few MiB in memory; a
subscription that has fallen behind reads what it missed from the store, so a slow client costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice

from cellyard_controller.executions.model import Event, Notice

WINDOW = 4 * 1024 * 1024
"""Characters of events kept in memory for one execution."""

Hear = Callable[[Sequence[Event | Notice], Sequence[int]], None]
"""Hears what is shown, and how many characters each of it has."""
Fetch = Callable[[int], Awaitable[list[Event]]]
"""Committed events after a number, some of them or all; empty where there are none."""


class EventLog:
    """Committed events of one execution, the newest in memory."""

    def __init__(self, last_seq: int, fetch: Fetch, *, finished: bool = False, hear: Hear | None = None) -> None:
        self.last_seq = last_seq
        self.finished = finished
        """The `finished` event is published: streams end after it."""
        self.notice: Notice | None = None
        self._fetch, self._hear = fetch, hear
        self._window: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._over: Exception | None = None

    def publish(self, events: Sequence[Event], sizes: Sequence[int]) -> None:
        """Shows committed events to everybody who watches."""
        for event, size in zip(events, sizes, strict=True):
            self._window.append((event, size))
            self._size += size
            self.last_seq = event.seq
            self.finished = self.finished or event.kind == "finished"
        while self._size > WINDOW and len(self._window) > 1:
            self._size -= self._window.popleft()[1]
        if self._hear is not None:
            self._hear(events, sizes)
        self._wake()

    def tell(self, notice: Notice) -> None:
        """Shows the state of this moment; who has not seen the one before never will."""
        if notice != self.notice:
            self.notice = notice
            if self._hear is not None:
                self._hear([notice], [0])
            self._wake()

    def end(self, why: Exception) -> None:
        """Nothing more is shown here: those who watch are told this, once they have read what was."""
        self._over = why
        self._wake()

    async def follow(self, after_seq: int) -> AsyncIterator[Event | Notice]:
        """Events after a number as they are committed, and notices; ends after `finished`. Raises what `end` said."""
        seen: Notice | None = None
        while True:
            changed = self._changed
            for event in await self._after(after_seq):
                after_seq = event.seq
                yield event
                if event.kind == "finished":
                    return
            if after_seq < self.last_seq:
                continue
            if self.finished:
                return
            if self.notice is not None and self.notice != seen:
                seen = self.notice
                yield seen
                continue
            if self._over is not None:
                raise self._over
            await changed.wait()

    async def _after(self, seq: int) -> list[Event]:
        if seq >= self.last_seq:
            return []
        missing = self.last_seq - seq
        if missing <= len(self._window):  # from the newest back: there may be thousands before
            return [event for event, _ in islice(reversed(self._window), missing)][::-1]
        return await self._fetch(seq)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
