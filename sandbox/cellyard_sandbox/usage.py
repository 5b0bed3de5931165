"""What a kernel uses, read from /proc, and whether the kernel of the system has killed it for its memory."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from cellyard_sandbox.kernel_host import Usage

_KIB = 1024
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_RESET_PEAK = b"5"  # proc(5), clear_refs


class Meter:
    """Measures one kernel process, run by run."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._clock = (~pid << 3) | 2  # its processor clock (clock_getcpuclockid); precise, unlike /proc's ticks
        self._started_at_s = 0.0
        self._ended: Usage | None = None

    def start(self) -> None:
        """A run starts."""
        self._started_at_s = self._cpu_s()
        try:
            with open(f"/proc/{self._pid}/clear_refs", "wb", buffering=0) as file:
                file.write(_RESET_PEAK)
        except OSError:
            pass  # then the peak is that of the process's life

    def read(self) -> Usage:
        """What the run has used until now."""
        if self._ended is not None:
            return self._ended
        return Usage(max(0.0, self._cpu_s() - self._started_at_s), self._peak_bytes())

    def ended(self, used: resource.struct_rusage) -> None:
        """The process has ended, with this in all."""
        total_s = used.ru_utime + used.ru_stime
        self._ended = Usage(max(0.0, total_s - self._started_at_s), used.ru_maxrss * _KIB)

    def _cpu_s(self) -> float:
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            children_s = (int(fields[13]) + int(fields[14])) * _TICK_S  # those that it has waited for
            return time.clock_gettime(self._clock) + children_s
        except (OSError, ValueError, IndexError):
            return self._started_at_s

    def _peak_bytes(self) -> int:
        try:
            with open(f"/proc/{self._pid}/status", "rb") as file:
                _, found, rest = file.read().partition(b"VmHWM:")
        except OSError:
            return 0
        return int(rest.split(None, 1)[0]) * _KIB if found else 0


def oom_kills() -> int:
    """How many processes of this control group were killed for want of memory; 0 where nobody counts."""
    for path in _counters():
        try:
            for line in path.read_text("ascii").splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
        except (OSError, ValueError):
            continue
    return 0


def _counters() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    found = [root / "memory.events", root / "memory" / "memory.oom_control"]  # as a container sees its own
    try:
        groups = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    except OSError:
        return found
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":
            found.insert(0, root / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            found.insert(0, root / "memory" / path.lstrip("/") / "memory.oom_control")
    return found
