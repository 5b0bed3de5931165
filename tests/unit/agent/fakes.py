"""Time that tests move, and a kernel host that does what tests say."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping

from cellyard_proto.v1 import link_pb2, manner_pb2, outputs_pb2
from cellyard_sandbox.kernel_host import Usage


class Call:
    """A call that waits for its time."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A Clock on which time passes only when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0
        self._calls: list[tuple[float, int, Call]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Call:
        call = Call(callback)
        heapq.heappush(self._calls, (self._now + delay, next(self._order), call))
        return call

    def pass_s(self, seconds: float) -> None:
        end = self._now + seconds
        while self._calls and self._calls[0][0] <= end:
            self._now, _, call = heapq.heappop(self._calls)
            if call.callback is not None:
                call.callback()
        self._now = end


class ScriptedHost:
    """A KernelHost that notes what it is asked for."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []
        self.interrupted: list[str] = []

    async def start(self, env: Mapping[str, str]) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    def run(self, run_id: str, source: str, *, allow_stdin: bool, namespaces: bool, manner: manner_pb2.Manner) -> None:
        self.ran.append((run_id, source))

    def interrupt(self, run_id: str) -> None:
        self.interrupted.append(run_id)

    def ask(self, order: link_pb2.AskKernel, answer: Callable[[link_pb2.Reply], None]) -> None:
        raise NotImplementedError

    def send_comm(self, comm: outputs_pb2.Comm) -> None:
        raise NotImplementedError

    def hold(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def usage(self) -> Usage:
        return Usage(cpu_s=0.5, peak_memory_bytes=1000)


def events_of(batches: list[link_pb2.Batch], execution_id: str) -> list[link_pb2.Event]:
    """The events of one execution."""
    return [event for batch in batches for event in batch.events if event.execution_id == execution_id]
