"""Brings two streams of one notebook into one order.

What an execution shows comes by its own stream, which loses nothing, whatever breaks. What widgets say, and what comes
after an execution's end, comes by the notebook's watch alone, which tells the executions' events too, each in its
place. So the watch sets the order, and an execution's stream sees to it that nothing is missing: it waits a moment for
the watch to have told the same, and where that does not happen, shows it itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

PATIENCE_S = 2.0
"""Seconds that an event waits for the watch. Then, until the watch has caught up, none waits."""
_REMEMBERED = 1_000  # executions, whose later output is shown
_EARLY = 1_000  # events of executions that nobody knows here yet

Show = Callable[[str, Any], None]


class Order:
    """Belongs to one event loop."""

    def __init__(self, show: Show) -> None:
        """`show`: called with each event of a known execution once, in order."""
        self._show = show
        self._shown: OrderedDict[str, int] = OrderedDict()
        self._told: dict[str, int] = {}
        self._early: deque[tuple[str, int, Any]] = deque(maxlen=_EARLY)
        self._behind = True
        self._changed = asyncio.Event()

    def begin(self, execution_id: str) -> None:
        """This execution is one whose events are to be shown."""
        self._shown[execution_id] = 0
        while len(self._shown) > _REMEMBERED:
            self._told.pop(self._shown.popitem(last=False)[0], None)
        early = [each for each in self._early if each[0] == execution_id]
        self._early.clear()  # those of others are nobody's here
        for _, seq, event in early:
            self._take(execution_id, seq, event)

    # From the watch

    def watch_began(self) -> None:
        """What it told before may not be all."""
        self._told.clear()
        self._early.clear()
        self._behind = False

    def watch_broke(self) -> None:
        """It tells nothing more."""
        self._behind = True
        self._wake()

    def accepted(self, execution_id: str) -> None:
        """The watch tells of an execution from its beginning."""
        self._told[execution_id] = 0
        if len(self._told) > 2 * _REMEMBERED:  # others' among them
            self._told = {known: seq for known, seq in self._told.items() if known in self._shown}
            self._told[execution_id] = 0

    def told(self, execution_id: str, seq: int, event: Any) -> None:
        """The watch tells an event."""
        if execution_id in self._shown:
            self._take(execution_id, seq, event)
        else:
            self._early.append((execution_id, seq, event))

    # From an execution's own stream

    async def reached(self, execution_id: str, seq: int, event: Any) -> None:
        """Returns once this event, and with it all before it, is shown."""
        if not self._behind:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while self._shown[execution_id] < seq and not self._behind:
                        await self._changed.wait()
            except TimeoutError:
                self._behind = True
        if self._shown[execution_id] < seq:
            self._shown[execution_id] = seq
            self._show(execution_id, event)

    def _take(self, execution_id: str, seq: int, event: Any) -> None:
        before = self._told.get(execution_id)
        self._told[execution_id] = seq
        shown = self._shown.get(execution_id)
        if shown is None or before is None:
            return
        if seq <= shown:
            self._behind = self._behind and seq < shown
        elif before <= shown:
            self._shown[execution_id] = seq
            self._show(execution_id, event)
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
