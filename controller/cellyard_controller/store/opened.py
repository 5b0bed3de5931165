"""Files that are opened for somebody who may be gone before they are open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar


class _Closes(Protocol):
    def close(self) -> None: ...


_File = TypeVar("_File", bound=_Closes)


async def opened(open_file: Callable[[], _File]) -> _File:
    """Opens something in a thread. Where the caller is cancelled meanwhile, it is closed as soon as it is open."""
    opening = asyncio.ensure_future(asyncio.to_thread(open_file))

    def close(done: asyncio.Future[_File]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().close()

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(close)
        raise
