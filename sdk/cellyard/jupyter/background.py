"""The event loop that all bridges of this process share, on a thread of its own.

jupyter_client's synchronous managers run each coroutine on an event loop that ends with it, and a server's loop may be
busy. What lasts as long as a kernel (sockets, the connection to the controller) must live elsewhere.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LAST_WORDS_S = 10.0
"""For what is still to be done at the interpreter's end."""


class Background:
    """A loop that is started when it is first needed, and ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._at_exit: set[Callable[[], Awaitable[None]]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Has something done there, and waits for it on the caller's own loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._started()))

    def at_exit(self, work: Callable[[], Awaitable[None]]) -> None:
        """What is to be done there before the interpreter ends."""
        self._at_exit.add(work)

    def forget(self, work: Callable[[], Awaitable[None]]) -> None:
        """It need not be done any more."""
        self._at_exit.discard(work)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # a fork's child has no such thread
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                self._at_exit = set()
                threading.Thread(target=self._loop.run_forever, name="cellyard-jupyter", daemon=True).start()
                atexit.register(self._end, self._loop)
            return self._loop

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop or self._pid != os.getpid():
            return
        left = [asyncio.run_coroutine_threadsafe(_done(work), loop) for work in self._at_exit]
        for future in left:
            try:
                future.result(LAST_WORDS_S)
            except Exception:  # nobody is left to tell; the controller's own rules end what this could not
                pass


async def _done(work: Callable[[], Awaitable[None]]) -> None:
    await work()


BACKGROUND = Background()
