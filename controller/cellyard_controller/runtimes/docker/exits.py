"""Which sandboxes have ended: the engine's events, read on a thread of their own, and what a list adds.

Events alone would lose what happened while nobody listened, so every new stream is followed by a comparison
with the engine's list. Streams are renewed now and then: one that is dead without a word looks the same as
one where nothing happens.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from docker import APIClient
from docker.types.daemon import CancellableStream

from cellyard_controller.runtimes import Instance, RuntimeFailed
from cellyard_controller.runtimes.docker.container import CONTROLLER_LABEL, SANDBOX_LABEL
from cellyard_controller.runtimes.docker.engine import EngineCalls

T = TypeVar("T")


class Exits:
    """What is known of instances' ends, so that each is told once however often it is seen."""

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._told: set[str] = set()

    def started(self, instance_id: str) -> None:
        """An instance runs; should it vanish unseen, that is its end."""
        if instance_id not in self._told:  # its end may be heard of before the call that started it returns
            self._alive.add(instance_id)

    def died(self, instance_id: str) -> bool:
        """An instance ended. True where this is news."""
        self._alive.discard(instance_id)
        news = instance_id not in self._told
        self._told.add(instance_id)
        return news

    def alive(self) -> frozenset[str]:
        """The instances that run, as far as known."""
        return frozenset(self._alive)

    def compare(self, alive_before: frozenset[str], listed: Iterable[Instance]) -> list[str]:
        """The ends that nobody told: what is listed as ended, and what was alive before and is not listed."""
        listed = list(listed)
        there = {instance.instance_id for instance in listed}
        ended = [instance.instance_id for instance in listed if instance.exit_code is not None]
        news = [instance_id for instance_id in (*ended, *sorted(alive_before - there)) if self.died(instance_id)]
        self._alive |= {instance.instance_id for instance in listed if instance.running}
        self._told &= there  # what is removed is never listed again
        return news


class ExitEvents:
    """One stream of `die` events of a controller's containers."""

    def __init__(self, engine: EngineCalls, controller_id: str) -> None:
        self._engine = engine
        self._filters = {
            "type": "container",
            "event": "die",
            "label": f"{CONTROLLER_LABEL}={controller_id}",
        }
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._deaths: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        self._lock = threading.Lock()  # guards what follows
        self._stream: CancellableStream[Any] | None = None
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[ExitEvents]:
        """Reads events as long as the block runs."""
        threading.Thread(target=self._read, name="engine-events", daemon=True).start()
        try:
            yield self
        finally:
            self._opened.cancel()
            with self._lock:
                self._closed = True
                if self._stream is not None:
                    _cancel(self._stream)

    async def opened(self) -> None:
        """Returns once the engine tells events. Raises RuntimeFailed where it does not."""
        await self._opened

    async def deaths(self) -> AsyncIterator[tuple[str, str]]:
        """Container and sandbox id of each that ended, until the engine ends the stream."""
        while (death := await self._deaths.get()) is not None:
            yield death

    def _read(self) -> None:
        try:
            client = self._engine.connect()
        except RuntimeFailed as failure:
            self._tell(self._settle, failure)
            return
        try:
            client.ping()  # with a timeout, which the stream itself must not have
            self._read_stream(client)
        except Exception as error:  # a stream closed from outside fails in many ways: all are its end
            lost = RuntimeFailed("runtime_lost", f"the container engine's events cannot be read: {error}")
            self._tell(self._settle, lost)
        finally:
            client.close()
            self._tell(self._deaths.put_nowait, None)

    def _read_stream(self, client: APIClient) -> None:
        stream = client.events(filters=self._filters, decode=True)
        with self._lock:
            if self._closed:
                _cancel(stream)
                return
            self._stream = stream
        self._tell(self._settle, None)
        try:
            for event in stream:
                labels = event["Actor"]["Attributes"]
                self._tell(self._deaths.put_nowait, (str(event["id"]), str(labels.get(SANDBOX_LABEL, ""))))
        finally:
            _cancel(stream)

    def _settle(self, failure: RuntimeFailed | None) -> None:
        if self._opened.done():
            return
        if failure is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(failure)

    def _tell(self, what: Callable[[T], None], value: T) -> None:
        try:
            self._loop.call_soon_threadsafe(what, value)
        except RuntimeError:
            pass  # the loop is closed: nobody listens any more


def _cancel(stream: CancellableStream[Any]) -> None:
    try:
        stream.close()
    except (AttributeError, OSError):
        pass  # it was closed at the other end already, and docker-py finds no socket below it
