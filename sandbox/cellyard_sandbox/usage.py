"""What a kernel uses, read from /proc."""

from __future__ import annotations

import os
import resource
import time

from cellyard_sandbox.kernel_host import Usage

_KIB = 1024
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_RESET_PEAK = b"5"  # proc(5), clear_refs
_LONGEST = 8192  # bytes of such a file


class Meter:
    """Measures one kernel process, run by run. Its files in /proc stay open: a run costs a system call for each."""

    def __init__(self, pid: int) -> None:
        self._clock = (~pid << 3) | 2  # its processor clock (clock_getcpuclockid); precise, unlike /proc's ticks
        self._started_at_s = 0.0
        self._ended: Usage | None = None
        self._stat = _opened(f"/proc/{pid}/stat", os.O_RDONLY)
        self._status = _opened(f"/proc/{pid}/status", os.O_RDONLY)
        self._clear_refs = _opened(f"/proc/{pid}/clear_refs", os.O_WRONLY)

    def start(self) -> None:
        """A run starts."""
        self._started_at_s = self._cpu_s()
        if self._clear_refs is not None:
            try:
                os.write(self._clear_refs, _RESET_PEAK)
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
        self.close()

    def close(self) -> None:
        """Nothing is measured any more."""
        for file in (self._stat, self._status, self._clear_refs):
            if file is not None:
                os.close(file)
        self._stat = self._status = self._clear_refs = None

    def _cpu_s(self) -> float:
        try:
            fields = _content(self._stat).rpartition(b")")[2].split()
            children_s = (int(fields[13]) + int(fields[14])) * _TICK_S  # those that it has waited for
            return time.clock_gettime(self._clock) + children_s
        except (OSError, ValueError, IndexError):
            return self._started_at_s

    def _peak_bytes(self) -> int:
        try:
            _, found, rest = _content(self._status).partition(b"VmHWM:")
        except OSError:
            return 0
        return int(rest.split(None, 1)[0]) * _KIB if found else 0


def _opened(path: str, flags: int) -> int | None:
    try:
        return os.open(path, flags)
    except OSError:
        return None


def _content(file: int | None) -> bytes:
    return os.pread(file, _LONGEST, 0) if file is not None else b""
