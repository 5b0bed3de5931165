"""What the system counts and limits for this sandbox: its control group, of version 1 or 2, and its file systems."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
_LONGEST = 16384  # bytes of such a file


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit is used; a limit of 0 means none that is known."""

    used: int = 0
    limit: int = 0

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one moment. What cannot be read is zero."""

    memory: Use = Use()
    """Without what the system would give back at once (its cache of files)."""
    oom_kills: int = 0
    """Processes that were killed for their memory, ever."""
    processes: int = 0
    """Limit of processes and threads."""
    refused_processes: int = 0
    """How often one was refused, ever."""
    processors: float = 0.0
    periods: int = 0
    held_back: int = 0
    """Scheduling periods (0.1 s) in which it wanted to run, ever, and those in which it had to wait for its limit."""
    space: Mapping[str, Use] = field(default_factory=dict)
    files: Mapping[str, Use] = field(default_factory=dict)


class ControlGroup:
    """Reads one control group's counters."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._memberships = _memberships()
        self._places: dict[str, str] = {}  # of files that were found, by name

    def oom_kills(self) -> int:
        """Processes that were killed for their memory, ever; 0 where nobody counts."""
        events = self._table("memory", "memory.events")
        return events.get("oom_kill", 0) if events else self._table("memory", "memory.oom_control").get("oom_kill", 0)

    def sample(self, folders: Mapping[str, int]) -> Sample:
        """What is used now; `folders` are descriptors of file systems, by name."""
        cpu = self._table("cpu", "cpu.stat")
        quota, period = self._quota()
        space, files = _disks(folders)
        return Sample(
            memory=self._memory(),
            oom_kills=self.oom_kills(),
            processes=_limit(self._text("pids", "pids.max")),
            refused_processes=self._table("pids", "pids.events").get("max", 0),
            processors=quota / period if quota > 0 and period > 0 else 0.0,
            periods=cpu.get("nr_periods", 0),
            held_back=cpu.get("nr_throttled", 0),
            space=space,
            files=files,
        )

    def _memory(self) -> Use:
        used = self._text("memory", "memory.current") or self._text("memory", "memory.usage_in_bytes")
        limit = self._text("memory", "memory.max") or self._text("memory", "memory.limit_in_bytes")
        stat = self._table("memory", "memory.stat")
        cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
        return Use(max(0, _limit(used) - cache), _limit(limit))

    def _quota(self) -> tuple[int, int]:
        both = self._text("cpu", "cpu.max").split()
        if len(both) == 2:
            return _limit(both[0]), _limit(both[1])
        quota = self._text("cpu", "cpu.cfs_quota_us")
        return (int(quota) if quota.lstrip("-").isdigit() else 0), _limit(self._text("cpu", "cpu.cfs_period_us"))

    def _table(self, controller: str, name: str) -> dict[str, int]:
        lines = (line.split() for line in self._text(controller, name).splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}

    def _text(self, controller: str, name: str) -> str:
        """A file of the group, as a container sees its own, or as somebody sees it who sees all groups."""
        known = self._places.get(name)
        for place in [known] if known else self._candidates(controller, name):
            try:
                text = _content(place)
            except OSError:
                continue
            self._places[name] = place
            return text.strip()
        return ""

    def _candidates(self, controller: str, name: str) -> list[str]:
        one, two = self._memberships.get(controller), self._memberships.get("")
        folders = [self._root, self._root / controller]
        if two:
            folders.insert(0, self._root / two)
        if one:
            folders.insert(0, self._root / controller / one)
        return [str(folder / name) for folder in folders]


def _content(path: str) -> str:
    file = os.open(path, os.O_RDONLY)  # a quarter of what open() costs
    try:
        return os.read(file, _LONGEST).decode("ascii", "replace")
    finally:
        os.close(file)


def _memberships() -> dict[str, str]:
    """The path of this process's group by controller, "" for that of version 2; no path for a root."""
    try:
        lines = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path.lstrip("/")
    return found


def _limit(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    return number if number < _UNLIMITED else 0


def _disks(folders: Mapping[str, int]) -> tuple[dict[str, Use], dict[str, Use]]:
    space, files = {}, {}
    for name, folder in folders.items():
        try:
            about = os.statvfs(folder)
        except OSError:
            continue
        space[name] = Use((about.f_blocks - about.f_bfree) * about.f_frsize, about.f_blocks * about.f_frsize)
        files[name] = Use(about.f_files - about.f_ffree, about.f_files)
    return space, files
