"""What the two flavours do differently, here for threads; `_io_async` has the same names for asyncio."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import grpc

FLAVOUR = "sync"

Channel: TypeAlias = grpc.Channel
Unary = grpc.UnaryUnaryMultiCallable
Event = threading.Event
Background: TypeAlias = threading.Thread
Streaming = grpc.UnaryStreamMultiCallable
Lock = threading.Lock
Cancelled = KeyboardInterrupt
"""What interrupts a call that waits: here Ctrl-C."""
ChannelClosed = ValueError
"""What a call on a closed channel raises."""

Pieces: TypeAlias = Iterable[bytes]
"""What a program may read piece by piece."""

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Call(Protocol[_T_co]):
    """A server stream: read it, or hold it, or cancel it."""

    def __iter__(self) -> Iterator[_T_co]: ...

    def cancel(self) -> bool: ...

    def is_active(self) -> bool: ...


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, int]]
) -> Channel:
    """A channel; it connects at the first call."""
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def first(call: Call[_T]) -> _T | None:
    """The first message of a stream, None where it ended without one."""
    return next(iter(call), None)


def end(call: Call[Any], behind: Callable[[], Any]) -> None:
    """Ends a held stream. Nothing has to come behind it, where there is no event loop."""
    call.cancel()


def ended(call: Call[Any]) -> bool:
    """Whether a stream that nobody reads has come to its end."""
    return not call.is_active()


def broken(channel: Channel) -> bool:
    """Whether the channel's connection is known to be gone. Only `ended` can tell here, without a thread of ours."""
    return False


def cancelled_by_caller() -> bool:
    """Whether it is the caller who was interrupted: always, Ctrl-C comes from outside."""
    return True


def owner() -> object:
    """Who may use a channel that is opened now: this process."""
    return os.getpid()


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)


def in_thread(function: Callable[..., _T], *args: Any) -> _T:
    """Calls a function that blocks; this flavour may block right here."""
    return function(*args)


def ask(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function of the caller returns."""
    return function(*args, **kwargs)


def tell(callback: Callable[[_T], Any] | None, value: _T) -> None:
    """Gives a value to a callback."""
    if callback is not None:
        callback(value)


def each(pieces: Pieces) -> Generator[bytes, None, None]:
    """The pieces, one after the other."""
    yield from pieces


def in_background(work: Callable[[], None]) -> Background:
    """Has something done beside the caller: here in a thread, that does not keep the interpreter alive."""
    thread = threading.Thread(target=work, name="cellyard-document", daemon=True)
    thread.start()
    return thread


def over(background: Background, timeout: float) -> None:
    """Waits for the end of what is done in the background, which was told to end."""
    if background is not threading.current_thread():
        background.join(timeout)


def happened(event: Event, timeout: float | None) -> bool:
    """Waits for an event; False where it does not come in time."""
    return event.wait(timeout)


class Beside:
    """Named work for the owner of a stream: here done at once, before the stream is read on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        """Nothing is left."""

    def start(self, name: str, work: Callable[..., None], *args: Any) -> None:
        """Does it."""
        work(*args)

    def close_up(self, name: str) -> None:
        """It is about to end."""

    def cancel(self, name: str) -> None:
        """It is over."""
