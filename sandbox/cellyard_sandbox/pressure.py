"""Limits that a running cell comes near or reaches, told to whoever runs it while it runs.

Some limits end things by themselves, with a word of the system in the code: no space left, too many open files. What
the limit was, and that it was reached at all, is told from here, as far as the system counts it (cgroups.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from cellyard_proto import amounts
from cellyard_proto.v1 import outputs_pb2
from cellyard_sandbox.cgroups import ControlGroup, Use
from cellyard_sandbox.executions import Clock, Timer

EVERY_S = 0.5
AGAIN_S = 60.0
"""The same warning comes once in so many seconds at most."""

_NEARLY = 0.9
_FULL = 0.99
_PERIODS = 10  # a second of work, before anything is said of processors
_WORTH_A_LOOK_S = 0.05  # a cell that ends sooner has used nothing up


class Pressure:
    """Looks at the sandbox's limits while a cell runs, and when it has ended. Belongs to the event loop's thread."""

    def __init__(
        self,
        clock: Clock,
        group: ControlGroup,
        folders: Mapping[str, str],
        warn: Callable[[outputs_pb2.Warning], None],
    ) -> None:
        """`folders`: file systems with limits of their own, the path by the name that people know."""
        self._clock, self._group, self._warn = clock, group, warn
        self._folders = {
            name: os.open(path, os.O_RDONLY | os.O_DIRECTORY) for name, path in folders.items() if os.path.isdir(path)
        }
        self._timer: Timer | None = None
        self._begun_at = 0.0
        self._periods = self._held_back = 0
        self._seen = group.sample({})
        self._told: dict[str, float] = {}

    def run_started(self) -> None:
        """A cell runs from now on."""
        self._begun_at = self._clock.time()
        self._periods = self._held_back = 0
        self._look_in(_WORTH_A_LOOK_S)

    def run_ended(self) -> None:
        """It runs no more; called before that is told."""
        if self._timer is not None and self._clock.time() - self._begun_at >= _WORTH_A_LOOK_S:
            self._look()
        self.stop()

    def stop(self) -> None:
        """Nothing runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, seconds: float) -> None:
        self.stop()
        self._timer = self._clock.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._look()
        self._look_in(EVERY_S)

    def _look(self) -> None:
        seen, now = self._seen, self._group.sample(self._folders)
        self._seen = now
        self._periods += now.periods - seen.periods
        self._held_back += now.held_back - seen.held_back
        memory = now.memory
        if memory.share >= _NEARLY:
            self._say("memory", f"{_of(memory)} of memory are used; past that, processes are killed", memory)
        if now.oom_kills > seen.oom_kills:
            killed = now.oom_kills - seen.oom_kills
            what = "a process was" if killed == 1 else f"{killed} processes were"
            limit = amounts.size(memory.limit)
            self._say("oom", f"{what} killed: the sandbox used up its memory limit of {limit}", memory)
        if now.refused_processes > seen.refused_processes:
            message = f"no more processes and threads were allowed: their limit is {now.processes}"
            self._say("pids", message, Use(now.processes, now.processes))
        if self._periods >= _PERIODS and self._held_back >= self._periods / 2:
            limit, often = f"{now.processors:g}", f"{self._held_back} of {self._periods}"
            message = f"the code was held back in {often} periods of time: its limit of processors is {limit}"
            self._say("cpu", message, limit=limit, periods=str(self._periods), held_back=str(self._held_back))
        for name, space in now.space.items():
            if space.share >= _FULL:
                self._say("disk", f"{name} is full: {_of(space)} are used", space, folder=name)
        for name, files in now.files.items():
            if files.share >= _FULL:
                message = f"{name} is full: {files.used} of {files.limit} files and folders are used"
                self._say("inodes", message, files, folder=name)

    def _say(self, kind: str, message: str, use: Use | None = None, **details: str) -> None:
        which = kind + details.get("folder", "")
        now = self._clock.time()
        if now - self._told.get(which, -AGAIN_S) < AGAIN_S:
            return
        self._told[which] = now
        if use is not None:
            details |= {"used": str(use.used), "limit": str(use.limit)}
        self._warn(outputs_pb2.Warning(kind=kind, message=message, details=details))


def _of(use: Use) -> str:
    return f"{amounts.size(use.used)} of {amounts.size(use.limit)}"
