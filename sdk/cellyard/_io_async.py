"""What the two flavours do differently, here for asyncio; `_io_sync` has the same names for threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from typing import Any, Protocol, Self, TypeAlias, TypeVar, cast

import grpc
from grpc import aio

FLAVOUR = "async"

Channel: TypeAlias = aio.Channel
Unary = aio.UnaryUnaryMultiCallable
Event = asyncio.Event
Background: TypeAlias = asyncio.Task[None]
Streaming = aio.UnaryStreamMultiCallable
Lock = asyncio.Lock
Cancelled = asyncio.CancelledError
"""What interrupts a call that waits: here the cancellation of its task."""
ChannelClosed = aio.UsageError
"""What a call on a closed channel raises."""

Pieces: TypeAlias = AsyncIterable[bytes] | Iterable[bytes]
"""What a program may read piece by piece."""

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Call(Protocol[_T_co]):
    """A server stream: read it, or hold it, or cancel it."""

    def __aiter__(self) -> AsyncIterator[_T_co]: ...

    async def read(self) -> object: ...

    def cancel(self) -> bool: ...

    def done(self) -> bool: ...


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, int]]
) -> Channel:
    """A channel; it connects at the first call."""
    if credentials is None:
        return aio.insecure_channel(target, options)
    return aio.secure_channel(target, credentials, options)


async def first(call: Call[_T]) -> _T | None:
    """The first message of a stream, None where it ended without one."""
    message = await call.read()
    return None if message is aio.EOF else cast(_T, message)


async def end(call: Call[Any], behind: Callable[[], Awaitable[Any]]) -> None:
    """Ends a held stream, perhaps as the last thing before its event loop is closed.

    gRPC reports the end later, to that loop, and where it is closed by then, complains in the next one. It reports
    in order: so a call is made behind it that is over at once.
    """
    call.cancel()
    with contextlib.suppress(grpc.RpcError):
        await behind()


def ended(call: Call[Any]) -> bool:
    """Whether a stream that nobody reads has come to its end."""
    return call.done()


def broken(channel: Channel) -> bool:
    """Whether the channel's connection is known to be gone. gRPC would make another one without a word."""
    return channel.get_state() is not grpc.ChannelConnectivity.READY


def cancelled_by_caller() -> bool:
    """Whether it is the caller who was cancelled, rather than a call whose channel was closed beside it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def owner() -> object:
    """Who may use a channel that is opened now: this event loop in this process."""
    return (os.getpid(), id(asyncio.get_running_loop()))


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


async def in_thread(function: Callable[..., _T], *args: Any) -> _T:
    """Calls a function that blocks."""
    return await asyncio.to_thread(function, *args)


async def ask(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function of the caller returns; it may be a coroutine function."""
    answer = function(*args, **kwargs)
    return await answer if inspect.isawaitable(answer) else answer


async def tell(callback: Callable[[_T], Any] | None, value: _T) -> None:
    """Gives a value to a callback, which may be a coroutine function."""
    if callback is not None:
        answer = callback(value)
        if inspect.isawaitable(answer):
            await answer


async def each(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    """The pieces, one after the other."""
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece


def in_background(work: Callable[[], Coroutine[Any, Any, None]]) -> Background:
    """Has something done beside the caller: here in a task, that ends with its event loop."""
    return asyncio.create_task(work())


async def over(background: Background, timeout: float) -> None:
    """Waits for the end of what is done in the background, which was told to end."""
    await asyncio.wait([background], timeout=timeout)


async def happened(event: Event, timeout: float | None) -> bool:
    """Waits for an event; False where it does not come in time."""
    try:
        async with asyncio.timeout(timeout):
            return await event.wait()
    except TimeoutError:
        return False


class Beside:
    """Named work that goes on while its owner reads a stream: here in tasks, of which none outlives the owner."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def start(self, name: str, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Begins it. Raises what work that was begun earlier has failed of."""
        for done in [done for done, task in self._tasks.items() if task.done()]:
            task = self._tasks.pop(done)
            self._closing.discard(done)
            if not task.cancelled():
                task.result()
        self._tasks[name] = asyncio.create_task(work(*args))

    def close_up(self, name: str) -> None:
        """It has done what it was for, and is about to end: `cancel` leaves it alone."""
        self._closing.add(name)

    def cancel(self, name: str) -> None:
        """Nobody needs it any more; without effect where it is over."""
        if name in self._tasks and name not in self._closing:
            self._tasks[name].cancel()
