"""The messages of one room, and the one task that handles them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import structlog

from cellyard_controller.errors import Refused, Stopping

T = TypeVar("T")
Work = Callable[[], Awaitable[Any]]

log = structlog.get_logger()


class Ask(Protocol):
    """Has work done in the room's task."""

    async def __call__(self, work: Callable[[], Awaitable[T]], /) -> T: ...


class Inbox:
    """Work for one room: handled one after the other, in the order in which it came."""

    def __init__(self, name: str) -> None:
        """`name`: the notebook's, for the log."""
        self._name = name
        self._waiting: asyncio.Queue[tuple[Work, asyncio.Future[Any] | None]] = asyncio.Queue()
        self._stopped = self._closed = self._at_work = False
        self._beside: set[asyncio.Task[None]] = set()
        self._over: Refused | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing waits or is at work, and nothing runs beside it that will report back."""
        return self._waiting.empty() and not self._at_work and not self._beside

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Has work done and returns what became of it. Raises Stopping where nothing is done any more."""
        if self._over is not None:
            raise self._over
        if self._closed:
            raise Stopping("the controller is stopping")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((work, answer))
        return await answer

    def post(self, work: Work) -> None:
        """Has work done; nobody waits for it."""
        self._waiting.put_nowait((work, None))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside the room's task. It ends with the room."""
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def handle(self, after_each: Callable[[], None]) -> None:
        """Handles work until `stop`: this is the room's task."""
        while not self._stopped:
            work, answer = await self._waiting.get()
            if answer is not None and answer.done():
                continue  # nobody waits any more, and nothing of it was promised
            self._at_work = True
            try:
                result = await work()
            except Exception as failed:  # a refusal goes to who asked; a defect must not end the room
                if answer is None:
                    log.exception("a message to a room failed", notebook_id=self._name)
                elif not answer.done():
                    answer.set_exception(failed)
            else:
                if answer is not None and not answer.done():
                    answer.set_result(result)
            finally:
                self._at_work = False
            after_each()

    def stop(self) -> None:
        """Ends `handle` after the work in hand: one cut in the middle of a commit could not know what is stored."""

        async def work() -> None:
            self._stopped = True

        self.post(work)

    def abandon(self, why: Refused) -> None:
        """Ends `handle` after the work in hand, and does nothing of what waits: who asked for it is told why."""
        self._over, self._stopped = why, True
        self.stop()  # it may wait for work

    async def close(self) -> None:
        """Does what nobody waits for, unless it is abandoned, and refuses the rest. `handle` has ended before."""
        for task in list(self._beside):
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        self._closed = True
        while not self._waiting.empty():  # a sandbox's end may have come while the controller stops
            work, answer = self._waiting.get_nowait()
            if answer is None:
                if self._over is None:
                    await work()
            elif not answer.done():
                answer.set_exception(self._over or Stopping("the controller is stopping"))
