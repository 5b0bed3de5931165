"""Commands beside the kernel: a process group of its own, its three streams piped through a flow.

It has the sandbox's user, limits and home like everything else here. It ends with its flow, with its time, and with
a restart of the kernel, which kills all that runs in the sandbox.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Mapping

from cellyard_proto.flows import cost
from cellyard_proto.v1 import link_pb2
from cellyard_sandbox.flows import Waker, Work, because, refused
from cellyard_sandbox.processes import Processes

_READ = 64 * 1024


class Command(Work):
    """One command, from its start to the end of its output. Belongs to the event loop's thread."""

    def __init__(self, processes: Processes, env: Mapping[str, str], order: link_pb2.RunCommand, waker: Waker) -> None:
        self._loop = asyncio.get_running_loop()
        self._waker = waker
        self._pid = 0
        self._exit: tuple[int, int] | None = None  # code and signal
        self._timed_out = False
        self._discarded = 0
        self._output_left = order.max_output
        self._started_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        argv = list(order.argv)
        if not argv or not argv[0] or any("\0" in word for word in argv):
            raise refused("a command has a program, and no NUL")
        ours, theirs = _pipes()
        self._stdin = _Inlet(self._loop, ours[0], waker.credit)
        self._outlets = {
            "stdout": _Outlet(self._loop, ours[1], waker.ready),
            "stderr": _Outlet(self._loop, ours[2], waker.ready),
        }
        self._turns = list(self._outlets)
        try:
            self._pid = processes.start(argv, env, theirs, self._exited)
        except OSError as failed:
            self.close()
            raise because(repr(argv[0][:200]), failed) from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        if order.timeout_s > 0:
            self._timer = self._loop.call_later(order.timeout_s, self._time_over)
        self.opened = link_pb2.FlowOpened(pid=self._pid)
        _may_be_killed_for_memory(self._pid)

    def take(self, content: bytes) -> int:
        """See Work: for its stdin."""
        return self._stdin.take(content)

    def input_ended(self) -> None:
        """See Work."""
        self._stdin.end()

    def give(self, room: int) -> link_pb2.FlowFrame | None:
        """See Work."""
        for name in self._turns:
            content = self._outlets[name].read(min(room, _READ), last=self._exit is not None)
            if content is None:
                continue
            kept = content[: self._output_left]
            self._output_left -= len(kept)
            self._discarded += len(content) - len(kept)
            if not kept:
                self._loop.call_soon(self._waker.ready)  # one piece at a time, however fast it writes
                return None
            self._turns.reverse()
            return link_pb2.FlowFrame(content=kept) if name == "stdout" else link_pb2.FlowFrame(stderr=kept)
        if self._exit is not None and not any(outlet.open for outlet in self._outlets.values()):
            code, number = self._exit
            ended = link_pb2.CommandEnded(
                exit_code=code,
                signal=number,
                timed_out=self._timed_out,
                discarded_bytes=self._discarded,
                wall_s=self._loop.time() - self._started_at,
            )
            self.ended = link_pb2.FlowEnded(command=ended)
        return None

    def close(self) -> None:
        """See Work: kills what still runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._stdin.close()
        for outlet in self._outlets.values():
            outlet.close()
        if self._pid and self._exit is None:
            _kill_group(self._pid)

    def _time_over(self) -> None:
        if self._exit is None:
            self._timed_out = True
            _kill_group(self._pid)

    def _exited(self, status: int, _used: resource.struct_rusage) -> None:
        code = os.waitstatus_to_exitcode(status)
        self._exit = (max(code, 0), max(-code, 0))
        _kill_group(self._pid)  # what it has left running in its group
        if self._timer is not None:
            self._timer.cancel()
        self._stdin.close()
        for outlet in self._outlets.values():
            outlet.wake()
        self._waker.ready()


class _Outlet:
    """The end of a pipe that a command writes to. It is read only when somebody asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, on_ready: Callable[[], None]) -> None:
        self._loop, self._descriptor, self._on_ready = loop, descriptor, on_ready
        self._readable = False
        self.open = True
        loop.add_reader(descriptor, self._now_readable)

    def wake(self) -> None:
        """Looks again: there may be something, or the end."""
        if self.open and not self._readable:
            self._now_readable()

    def read(self, room: int, *, last: bool) -> bytes | None:
        """What is there, None for nothing. `last`: nobody of interest writes any more, so nothing means the end."""
        if not self.open or not self._readable:
            return None
        try:
            content = os.read(self._descriptor, room)
        except BlockingIOError:
            if last:
                self.close()  # what the command left behind, outside of its group, may hold the other end
            else:
                self._readable = False
                self._loop.add_reader(self._descriptor, self._now_readable)
            return None
        if not content:
            self.close()
            return None
        return content

    def close(self) -> None:
        """Reads no more."""
        if self.open:
            self.open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _now_readable(self) -> None:
        self._readable = True
        self._loop.remove_reader(self._descriptor)
        self._on_ready()


class _Inlet:
    """The end of a pipe that a command reads from; what it does not read yet waits, as much as the window allows."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, on_credit: Callable[[int], None]) -> None:
        self._loop, self._descriptor, self._on_credit = loop, descriptor, on_credit
        self._waiting: deque[tuple[memoryview, int]] = deque()  # what is left of each piece, and what it has cost
        self._ending = False
        self._open = True

    def take(self, content: bytes) -> int:
        """Writes what it can. Returns the credit for what is written whole; of the rest `on_credit` tells."""
        if not self._open or self._ending:
            return cost(content)  # it reads no more: as with any pipe, that is not the writer's fault
        self._waiting.append((memoryview(content), cost(content)))
        return self._write() if len(self._waiting) == 1 else 0

    def end(self) -> None:
        """Nothing more comes: it reads the end once it has read what waits."""
        self._ending = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Writes no more."""
        if self._open:
            self._open = False
            self._waiting.clear()
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)

    def _write(self) -> int:
        credit = 0
        try:
            while self._waiting:
                left, price = self._waiting[0]
                left = left[os.write(self._descriptor, left) if left else 0 :]
                self._waiting[0] = left, price
                if not left:
                    self._waiting.popleft()
                    credit += price
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._writable)
            return credit
        except OSError:  # it has closed its stdin
            credit += sum(price for _, price in self._waiting)
            self.close()
            return credit
        self._loop.remove_writer(self._descriptor)
        if self._ending:
            self.close()
        return credit

    def _writable(self) -> None:
        credit = self._write()
        if credit:
            self._on_credit(credit)


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Our ends and the command's ends of its stdin, stdout and stderr. Raises FlowRefused."""
    made: list[int] = []
    try:
        for _ in range(3):
            made += os.pipe2(os.O_CLOEXEC)
    except OSError as failed:
        for descriptor in made:
            os.close(descriptor)
        raise because("the command", failed) from None
    ours, theirs = (made[1], made[2], made[4]), (made[0], made[3], made[5])
    for descriptor in ours:
        os.set_blocking(descriptor, False)
    return ours, theirs


def _may_be_killed_for_memory(pid: int) -> None:
    """As the kernel's processes may: so the system takes the largest of them all, and the agent last."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        pass  # it has ended already, or is of another user


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left
