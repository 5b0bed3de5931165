"""Lets others know that something has changed, without saying what: they look."""

from __future__ import annotations

import asyncio


class Changes:
    """The changes of one thing. Its owner tells; whoever shows it waits. Used on the controller's event loop alone."""

    def __init__(self) -> None:
        self.count = 0
        """How many there were."""
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, count: int) -> int:
        """Returns how many there were, once there were more than `count`."""
        while self.count <= count:
            await self._next.wait()
        return self.count
