"""Commands to Redis: over a client of one's own or over one that was given, with errors that tell what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from cellyard.codemode.errors import StorageError
from cellyard.errors import CapabilityUnavailable, InvalidRequest

if TYPE_CHECKING:
    from redis import Redis

CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 30.0
Word: TypeAlias = bytes | str | int | memoryview
"""A part of a command."""
_PAUSES_S = (0.05, 0.25)
"""Before a command that may be sent again is."""
_SCHEMES = ("redis://", "rediss://", "unix://")
_URL = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], the same with rediss://, or unix://[USER:PASSWORD@]PATH[?db=DB]"


class Link:
    """Sends commands. What comes back is bytes, however the client was made."""

    def __init__(self, url: str | None, redis: Redis | None) -> None:
        """Raises InvalidRequest unless exactly one is given, and it is right; CapabilityUnavailable without `redis`."""
        if (url is None) == (redis is None):
            raise InvalidRequest("RedisStorage takes exactly one of url and redis")
        try:
            library, asynchronous = import_module("redis"), import_module("redis.asyncio")
        except ImportError:
            raise CapabilityUnavailable(
                "storage in Redis needs the package redis, which is missing: pip install 'cellyard[codemode]'"
            ) from None
        self._library = library
        self._owned = redis is None
        if redis is None:
            self.client: Any = _connected_by(url, library)
        elif isinstance(redis, library.Redis):
            self.client = redis
        elif isinstance(redis, asynchronous.Redis):
            raise InvalidRequest("RedisStorage takes a synchronous client: redis.Redis, not redis.asyncio.Redis")
        else:
            raise InvalidRequest(f"RedisStorage takes a redis.Redis, not {type(redis).__name__}")
        pool = self.client.connection_pool
        settings = pool.connection_kwargs
        # A pool that asks sentinels knows a service and no host.
        host = (
            getattr(pool, "service_name", None) or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
        )
        self.where = f"{settings.get('path') or host}, database {settings.get('db') or 0}"
        self._secret = settings.get("password")

    def ask(self, *command: Word, again: bool = True) -> Any:
        """A command's answer. `again`: sending it twice comes to the same, so it is, where the connection breaks.

        Raises StorageError, which is retryable where Redis cannot be reached or has no room.
        """
        errors = self._library.exceptions
        pauses = [*_PAUSES_S] if again else []
        while True:
            try:
                # The library's own name for it: a client that decodes all answers leaves this one alone.
                return self.client.execute_command(*command, NEVER_DECODE=True)
            except (errors.AuthenticationError, errors.AuthorizationError) as refused:
                raise StorageError(self._said("lets nobody in with these credentials", refused)) from None
            except (errors.ConnectionError, errors.TimeoutError, OSError) as broken:
                if not pauses:
                    raise StorageError(self._said("cannot be reached", broken), retryable=True) from None
                time.sleep(pauses.pop(0))
            except errors.RedisError as refused:
                full = isinstance(refused, errors.OutOfMemoryError) or str(refused).startswith(("OOM", "MISCONF"))
                raise StorageError(self._said("refused a command", refused), retryable=full) from None

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[Word], *, again: bool) -> Any:
        """The answer of a script, which nothing else comes between."""
        return self.ask("EVAL", script, len(keys), *keys, *arguments, again=again)

    def close(self) -> None:
        """Lets go of connections, unless the client is somebody else's."""
        if self._owned:
            self.client.close()
            self.client.connection_pool.disconnect()

    def _said(self, what: str, error: BaseException) -> str:
        said = str(error) or type(error).__name__
        if self._secret:
            said = said.replace(str(self._secret), "***")
        return f"Redis at {self.where} {what}: {said[:300]}"


def _connected_by(url: object, library: Any) -> Redis:
    """A client; nothing is connected yet. Nothing of the URL is said: it may hold a password."""
    if not isinstance(url, str) or not url.startswith(_SCHEMES):
        raise InvalidRequest(f"a URL of Redis is {_URL}")
    try:
        client: Redis = library.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_WITHIN_S,
            socket_timeout=ANSWER_WITHIN_S,
            health_check_interval=30,
            retry=library.retry.Retry(library.backoff.NoBackoff(), 0),
        )
        client.connection_pool.make_connection()
    except (ValueError, TypeError, library.exceptions.RedisError):
        raise InvalidRequest(f"the URL cannot be read; one of Redis is {_URL}") from None
    return client
