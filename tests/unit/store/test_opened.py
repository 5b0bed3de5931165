"""Files that are opened for somebody who may be gone before they are open."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cellyard_controller.store.opened import opened

WITHIN = 60.0


class File:
    """Opens when it is let, and tells when it is closed."""

    def __init__(self) -> None:
        self.begun, self.let, self.closed = threading.Event(), threading.Event(), threading.Event()

    def open(self) -> File:
        self.begun.set()
        assert self.let.wait(WITHIN)
        return self

    def close(self) -> None:
        self.closed.set()


async def test_it_is_the_callers_who_waits() -> None:
    file = File()
    file.let.set()
    assert await opened(file.open) is file
    assert not file.closed.is_set()


async def test_it_is_closed_where_the_caller_has_gone() -> None:
    file = File()
    waiting = asyncio.create_task(opened(file.open))
    assert await asyncio.to_thread(file.begun.wait, WITHIN)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not file.closed.is_set()
    file.let.set()
    assert await asyncio.to_thread(file.closed.wait, WITHIN)


async def test_what_cannot_be_opened_is_told_and_hurts_nobody_who_has_gone() -> None:
    def fail() -> File:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await opened(fail)
    waiting = asyncio.create_task(opened(fail))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises((asyncio.CancelledError, OSError)):
        await waiting
