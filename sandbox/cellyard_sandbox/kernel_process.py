"""The process of one kernel: its start, what it uses, and why it ended."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence

from cellyard_sandbox.cgroups import ControlGroup
from cellyard_sandbox.kernel_host import Usage
from cellyard_sandbox.processes import Processes, interrupt_group
from cellyard_sandbox.usage import Meter

_STDERR_TAIL = 4096
_REASON = 500  # characters of what it said at its end


class KernelProcess:
    """One process, from its start to its end. Belongs to the event loop's thread."""

    def __init__(
        self,
        processes: Processes,
        argv: list[str],
        env: Mapping[str, str],
        on_exit: Callable[[], None],
        inherited: Sequence[int] = (),
        name: str = "",
    ) -> None:
        """Starts it, with these descriptors under the same numbers. Raises OSError. `name`: for the reason of its end.

        `on_exit` is called once it has ended, unless it was closed before.
        """
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._open = True
        self._name = name or os.path.basename(argv[0])
        self._tail = b""
        self._killed_for = ""
        self._group = ControlGroup()
        self._oom_kills = self._group.oom_kills()
        self.end_reason = ""
        """Why it has ended: "exit code 1", "signal 9", "oom: process NAME, pid N"; empty while it lives."""
        self._stderr, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stderr, False)
        try:
            self.pid = processes.spawn(argv, env, theirs, self._exited, inherited)
        except OSError:
            os.close(self._stderr)
            raise
        finally:
            os.close(theirs)
        self._meter = Meter(self.pid)
        self._loop.add_reader(self._stderr, self._read_stderr)

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return not self.end_reason

    def run_starts(self) -> None:
        """From now on its use is that of a run."""
        self._meter.start()

    def run_ended(self) -> None:
        """The run is over. What was killed for its memory until now was not this process."""
        self._oom_kills = self._group.oom_kills()

    def usage(self) -> Usage:
        """What the run has used until now, or until the end of the process."""
        return self._meter.read()

    def interrupt(self) -> None:
        """SIGINT for it and its group."""
        if self.alive:
            interrupt_group(self.pid)

    def kill(self, reason: str) -> None:
        """Kills it, which is why it ends then."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            self._killed_for = reason

    def said(self) -> str:
        """The line of its stderr that says most about its end."""
        if self._open:
            self._read_stderr()
        lines = [line for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line.partition(":")[0] and not line[0].isspace()]
        return (errors or lines or [""])[-1].strip()[:_REASON]

    def close(self) -> None:
        """Nothing is called any more; the process is not touched."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._meter.close()

    def _exited(self, status: int, used: resource.struct_rusage) -> None:
        self._meter.ended(used)
        code = os.waitstatus_to_exitcode(status)
        if self._killed_for:
            self.end_reason = self._killed_for
        elif code == -signal.SIGKILL and self._group.oom_kills() > self._oom_kills:
            self.end_reason = f"oom: process {self._name}, pid {self.pid}"
        else:
            self.end_reason = f"exit code {code}" if code >= 0 else f"signal {-code}"
        if self._open:
            self._on_exit()

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._stderr, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr)
        self._tail = (self._tail + data)[-_STDERR_TAIL:]
