"""Who is at the console: browsers that have shown a token once, and carry a cookie since.

The cookie's value is random, stands for the token and is kept, hashed, in memory alone: who restarts the controller has
logged everybody out. Whether the token is in force still is looked at whenever it matters.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass, field

from cellyard_controller.api.callers import Access, Caller
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.tenants.rates import Bucket
from cellyard_controller.tenants.tokens import Token
from cellyard_controller.web.token import TokenFile

MAX_VISITORS = 1000
VISITORS_EACH = 20
"""Of one token: nobody can crowd the others out."""
IDLE_S = 8 * 3600.0
"""Seconds without a request or an open stream after which somebody has to log in again."""
MAX_STREAMS = 128
"""Streams in all."""
STREAMS_EACH = 16
"""Streams of one visitor: the oldest ends where there is one more."""
LOOK_EVERY = 0.5
"""Seconds between two looks for streams whose visitor may not be here any more."""
TRIES_A_SECOND = 1 / 6
"""Of one address, in the long run; a few may come at once."""
_MAX_ADDRESSES = 1000


class TooManyTries(Exception):
    """This address has shown wrong tokens too often; `retry_after_s` later it may try again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class TooManyStreams(Exception):
    """As many streams are open as there may be."""


@dataclass(eq=False, slots=True)
class Stream:
    """A stream that is open. `over` says why it has to end, once it has."""

    over: asyncio.Future[str]

    def end(self, why: str) -> None:
        """It has to end."""
        if not self.over.done():
            self.over.set_result(why)


@dataclass(eq=False, slots=True)
class Visitor:
    """A browser that has logged in."""

    token: Token | None
    """The tenant's; None for the operator's."""
    fingerprint: bytes
    """Of the operator's token as it was."""
    used_at: float
    streams: list[Stream] = field(default_factory=list)

    @property
    def operator(self) -> bool:
        """Whether it is the operator, who sees all tenants."""
        return self.token is None

    @property
    def tenant(self) -> TenantName:
        """The tenant, or the operator's own."""
        return LOCAL if self.token is None else self.token.tenant

    def caller(self, tenant: TenantName, address: str) -> Caller:
        """Who calls, as the services see it: over TCP, so that nobody here may use what is for a unix socket."""
        return Caller(tenant, over_unix=False, token=self.token, address=address)


class Visitors:
    """All who have logged in. `run` it."""

    def __init__(self, access: Access, operator: TokenFile) -> None:
        self._access, self._operator = access, operator
        self._visitors: dict[bytes, Visitor] = {}
        self._tries: dict[str, Bucket] = {}
        self._streams = 0

    async def run(self) -> None:
        """Ends the streams of those whose token is not in force any more, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for key, visitor in list(self._visitors.items()):
                if visitor.streams and not self._in_force(visitor):
                    self._forget(key, "the token is no longer in force")

    def log_in(self, given: str, address: str) -> tuple[str, Visitor]:
        """A new cookie for who has this token. Raises Unauthenticated, TooManyTries.

        `address`: where it comes from, without a port.
        """
        now = time.monotonic()
        bucket = self._bucket(address)
        wait = bucket.take(now)
        if wait:
            raise TooManyTries(wait)
        visitor = self._known(given, now)
        bucket.left = min(bucket.size, bucket.left + 1)  # only wrong ones count
        same = [key for key, each in self._visitors.items() if each.token == visitor.token]
        if len(same) >= VISITORS_EACH or len(self._visitors) >= MAX_VISITORS:
            among = same if len(same) >= VISITORS_EACH else list(self._visitors)
            self._forget(min(among, key=self._worth), "too many browsers have logged in")
        cookie = secrets.token_urlsafe(32)
        self._visitors[_digest(cookie)] = visitor
        return cookie, visitor

    def find(self, cookie: str) -> Visitor | None:
        """Who has this cookie; None where nobody does who may still be here."""
        key, now = _digest(cookie), time.monotonic()
        visitor = self._visitors.get(key)
        if visitor is None:
            return None
        if not self._in_force(visitor) or (not visitor.streams and now > visitor.used_at + IDLE_S):
            self._forget(key, "the token is no longer in force")
            return None
        visitor.used_at = now
        return visitor

    def log_out(self, cookie: str) -> None:
        """Who has this cookie has it no longer; whatever they have open ends."""
        self._forget(_digest(cookie), "logged out")

    def open_stream(self, visitor: Visitor) -> Stream:
        """One more stream; `close_stream` must follow. Raises TooManyStreams."""
        if self._streams >= MAX_STREAMS:
            raise TooManyStreams
        stream = Stream(asyncio.get_running_loop().create_future())
        for older in visitor.streams[: max(0, len(visitor.streams) + 1 - STREAMS_EACH)]:
            older.end("too many pages are open")
        visitor.streams.append(stream)
        self._streams += 1
        return stream

    def close_stream(self, visitor: Visitor, stream: Stream) -> None:
        """It has ended."""
        visitor.streams.remove(stream)
        visitor.used_at = time.monotonic()
        self._streams -= 1

    def end_streams(self, why: str) -> None:
        """All of them have to end."""
        for visitor in self._visitors.values():
            for stream in visitor.streams:
                stream.end(why)

    def _known(self, given: str, now: float) -> Visitor:
        given = given.encode(errors="replace").decode()  # JSON may have half of a surrogate pair
        if self._operator.allows(f"Bearer {given}"):
            return Visitor(None, self._operator.fingerprint(), now)
        return Visitor(self._access.token(given), b"", now)

    def _in_force(self, visitor: Visitor) -> bool:
        if visitor.token is None:
            return visitor.fingerprint == self._operator.fingerprint() != b""
        return self._access.in_force(visitor.token.token_id)

    def _forget(self, key: bytes, why: str) -> None:
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            for stream in visitor.streams:
                stream.end(why)

    def _worth(self, key: bytes) -> tuple[bool, float]:
        visitor = self._visitors[key]
        return bool(visitor.streams), visitor.used_at

    def _bucket(self, address: str) -> Bucket:
        bucket = self._tries.pop(address, None) or Bucket(TRIES_A_SECOND)
        if len(self._tries) >= _MAX_ADDRESSES:
            self._tries.pop(next(iter(self._tries)))  # the one that has not tried for longest
        self._tries[address] = bucket
        return bucket


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
