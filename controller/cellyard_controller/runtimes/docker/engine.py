"""Calls to the container engine: each on a thread of its own, bounded in time, a few at once.

docker-py blocks. An engine that hangs may keep a thread, but neither the event loop, nor another call, nor
the end of this process: a call that takes too long is left to itself, and undone should it succeed after all.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
import threading
from collections.abc import Callable
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import requests.exceptions
from docker import APIClient
from docker.errors import APIError, DockerException

from cellyard_controller.runtimes import RuntimeFailed

T = TypeVar("T")

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
MINIMUM_API_VERSION = "1.41"
"""Docker 20.10's."""
SOCKET_TIMEOUT = 30
"""Seconds that the engine may be silent in the middle of a call."""
QUEUE_BOUND = 60.0
"""Seconds that a call waits for its turn, at most."""
_LEFT_ALONE_MAX = 64


def engine_address(host: str | None = None) -> str:
    """The path of the engine's unix socket: `host`, else DOCKER_HOST, else the usual one.

    Raises RuntimeFailed for an engine that is elsewhere: sandboxes and controller meet on a unix socket.
    """
    address = host or os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE
    parts = urlsplit(address)
    if parts.scheme != "unix":
        raise RuntimeFailed(
            "runtime_lost",
            f"DOCKER_HOST={address} is refused: the engine must share this machine's file system, because "
            "sandboxes are reached over a unix socket. Use unix:///path/of/docker.sock, or run the "
            "controller beside that engine",
        )
    return parts.netloc + parts.path


class EngineCalls:
    """The engine's API for coroutines. Belongs to one event loop; `close` when done."""

    def __init__(self, address: str, at_once: int, *, socket_timeout: int = SOCKET_TIMEOUT) -> None:
        self.address = address
        self._socket_timeout = socket_timeout
        self._turns = asyncio.Semaphore(at_once)
        self._threads_max = at_once + _LEFT_ALONE_MAX
        self._lock = threading.Lock()  # guards what follows, which threads share
        self._threads = 0
        self._idle: list[APIClient] = []
        self._version: str | None = None
        self._closed = False

    async def call(
        self,
        work: Callable[[APIClient], T],
        *,
        bound: float,
        undo: Callable[[APIClient, T], None] | None = None,
    ) -> T:
        """What `work` returns, within `bound` seconds from its turn.

        `undo` takes back what `work` did, where the caller was cancelled or the time was up meanwhile.
        Raises RuntimeFailed where the engine is not there or does not answer, docker's APIError where it
        refuses.
        """
        try:
            async with asyncio.timeout(QUEUE_BOUND):
                await self._turns.acquire()
        except TimeoutError:
            raise self._hangs(f"{QUEUE_BOUND:.0f} s passed before a call had its turn") from None
        try:
            return await self._bounded(_Job(work, undo), bound)
        finally:
            self._turns.release()

    def connect(self) -> APIClient:
        """A client for the calling thread alone; the caller closes it. Blocks. Raises RuntimeFailed."""
        self._knock()
        with self._lock:
            version = self._version
        if version is None:
            version = self._negotiate()
            with self._lock:
                self._version = version
        return self._client(version)

    def _client(self, version: str) -> APIClient:
        return APIClient(f"unix://{self.address}", version=version, timeout=self._socket_timeout)

    def _negotiate(self) -> str:
        """The API's version that the engine prefers. docker-py asks too, but leaves its socket open on failure."""
        client = self._client(MINIMUM_API_VERSION)
        try:
            return str(client.version(api_version=False)["ApiVersion"])
        except (requests.exceptions.RequestException, DockerException) as error:
            raise unreachable(self.address) from error
        finally:
            client.close()

    def close(self) -> None:
        """Closes idle connections. Calls under way end by themselves."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    async def _bounded(self, job: _Job[T], bound: float) -> T:
        with self._lock:
            threads = self._threads
        if threads >= self._threads_max:
            raise self._hangs(f"{threads} calls never came back")
        self._on_thread(job.run, job.fail)
        try:
            async with asyncio.timeout(bound):
                return await asyncio.wrap_future(job.result)
        except TimeoutError:
            self._leave(job)
            raise self._hangs(f"it did not answer within {bound:.0f} s") from None
        except asyncio.CancelledError:
            self._leave(job)
            raise

    def _leave(self, job: _Job[T]) -> None:
        if job.abandon():
            return  # the thread undoes it, should it come to an end
        if job.result.exception() is None:
            self._on_thread(job.take_back, lambda error: None)

    def _on_thread(self, step: Callable[[APIClient], None], failed: Callable[[BaseException], None]) -> None:
        with self._lock:
            self._threads += 1
        # A daemon: an executor's threads are joined when the interpreter ends, and this one may hang.
        threading.Thread(target=self._perform, args=(step, failed), name="engine-call", daemon=True).start()

    def _perform(self, step: Callable[[APIClient], None], failed: Callable[[BaseException], None]) -> None:
        try:
            client = self._take()
        except RuntimeFailed as failure:
            self._leave_thread()
            failed(failure)
            return
        sound = False
        try:
            step(client)
            sound = True
        except APIError as refusal:
            sound = True  # the engine answered, only not as wished
            failed(refusal)
        except (requests.exceptions.RequestException, DockerException):
            failed(unreachable(self.address))
        except BaseException as error:  # whatever it is: the coroutine that waits must learn of it
            failed(error)
        finally:
            self._leave_thread()
            self._give_back(client, sound)

    def _take(self) -> APIClient:
        with self._lock:
            client = self._idle.pop() if self._idle else None
        if client is None:
            return self.connect()
        try:
            self._knock()
        except RuntimeFailed:
            client.close()
            raise
        return client

    def _knock(self) -> None:
        # docker-py tells little of why it cannot connect, and leaves a socket open then. Knocking costs some 50 us.
        if (closed := _closed(self.address)) is not None:
            raise closed

    def _give_back(self, client: APIClient, sound: bool) -> None:
        with self._lock:
            if sound and not self._closed:
                self._idle.append(client)
                return
        client.close()

    def _leave_thread(self) -> None:
        with self._lock:
            self._threads -= 1

    def _hangs(self, what: str) -> RuntimeFailed:
        return RuntimeFailed(
            "runtime_lost",
            f"the container engine at {self.address} hangs: {what}. Look at its log, or restart it",
        )


class _Job(Generic[T]):
    """One call, between the thread that makes it and the coroutine that waits for it."""

    def __init__(self, work: Callable[[APIClient], T], undo: Callable[[APIClient, T], None] | None) -> None:
        self.result: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.result.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only abandoned
        self._work = work
        self._undo = undo
        self._lock = threading.Lock()
        self._abandoned = False

    def run(self, client: APIClient) -> None:
        """Makes the call; takes it back where nobody waits for it any more."""
        value = self._work(client)
        with self._lock:
            if not self._abandoned:
                self.result.set_result(value)
                return
        if self._undo is not None:
            self._undo(client, value)

    def fail(self, error: BaseException) -> None:
        """Tells whoever waits that there is no result."""
        with self._lock:
            if not self.result.done():
                self.result.set_exception(error)

    def abandon(self) -> bool:
        """Nobody waits any more. False where the call is over already."""
        with self._lock:
            self._abandoned = not self.result.done()
            return self._abandoned

    def take_back(self, client: APIClient) -> None:
        """Undoes a call that came to its end, and whose result nobody took."""
        if self._undo is not None:
            self._undo(client, self.result.result())


def unreachable(address: str) -> RuntimeFailed:
    """Why no call gets through to the engine, as far as knocking at its socket tells, and what to do."""
    mute = f"the container engine at {address} gave no proper answer: look at its log, or restart it"
    return _closed(address) or RuntimeFailed("runtime_lost", mute)


def _closed(address: str) -> RuntimeFailed | None:
    """Why the engine's socket cannot be opened; None where it can."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(1.0)
            knock.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        why = f"no container engine listens at {address}: run `make setup`, or start the engine"
    except PermissionError:
        why = (
            f"this user may not use the container engine at {address}: add it to the group that owns the "
            "socket, or set DOCKER_HOST to an engine of its own"
        )
    except OSError as error:
        why = f"the container engine at {address} cannot be reached ({error.strerror or error}): restart it"
    else:
        return None
    return RuntimeFailed("runtime_lost", why)
