"""Calls on their way in: how many, and how long each may take to say what it wants.

gRPC keeps what has come of a message in memory until the message is whole, and a peer may take its time. So nothing is
read of anybody who is not known, and of each tenant only a few messages at a time, each within a time limit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from cellyard_controller.api.unreadable import Unreadable
from cellyard_controller.config import LimitsConfig
from cellyard_controller.errors import InvalidRequest, QuotaExceeded
from cellyard_controller.ids import TenantName

_READ_AT_A_TIME = 8
"""Requests of one tenant that are read at a time. Those that came whole take no time; what is half said holds one."""


class Arrivals:
    """Calls of all tenants. Used by the methods of all services."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._calls: Counter[TenantName] = Counter()
        self._feeds: Counter[TenantName] = Counter()
        self._reading: dict[TenantName, asyncio.Semaphore] = {}

    @contextmanager
    def call(self, tenant: TenantName) -> Iterator[None]:
        """A call goes on as long as the block runs. Raises QuotaExceeded."""
        with _counted(self._calls, tenant, self._limits.calls, "calls"):
            yield

    @contextmanager
    def feed(self, tenant: TenantName) -> Iterator[None]:
        """A call goes on whose client sends any number of messages. Raises QuotaExceeded.

        Fewer than of other calls: each may have a message half sent, and nobody can tell.
        """
        with _counted(self._feeds, tenant, self._limits.feeds, "calls that send streams"):
            yield

    async def one(self, messages: AsyncIterator[Any], tenant: TenantName, method: str) -> Any:
        """The message of a call that has one. Raises InvalidRequest where it does not come, or cannot be read."""
        message = await self._first(messages, tenant, method)
        if message is None:
            raise InvalidRequest(f"the request of {method} has no message")
        return message

    async def all(self, messages: AsyncIterator[Any], tenant: TenantName, method: str) -> AsyncIterator[Any]:
        """The messages of a call that has any number. Raises InvalidRequest as `one` does."""
        message = await self._first(messages, tenant, method)
        if message is None:
            return
        yield message
        async for message in messages:
            if isinstance(message, Unreadable):
                raise message.refusal()
            yield message

    async def _first(self, messages: AsyncIterator[Any], tenant: TenantName, method: str) -> Any:
        reading = self._reading.get(tenant)
        if reading is None:
            reading = self._reading[tenant] = asyncio.Semaphore(_READ_AT_A_TIME)
        try:
            async with asyncio.timeout(self._limits.arrival), reading:
                message = await anext(aiter(messages), None)
        except TimeoutError:
            raise InvalidRequest(
                f"the request of {method} did not come within {self._limits.arrival:g} s", retryable="true"
            ) from None
        if isinstance(message, Unreadable):
            raise message.refusal()
        return message


@contextmanager
def _counted(counts: Counter[TenantName], tenant: TenantName, limit: int, what: str) -> Iterator[None]:
    if counts[tenant] >= limit:
        raise QuotaExceeded(f"{limit:,} {what} go on already, and no more may at a time")
    counts[tenant] += 1
    try:
        yield
    finally:
        counts[tenant] -= 1
        if not counts[tenant]:
            del counts[tenant]
