"""What the host's /proc says of a container's first process: the other witness beside what is told from inside."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cellyard_controller.runtimes import ENVIRONMENT

NAMESPACES = ("ipc", "mnt", "net", "pid", "user", "uts")
STATUS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class HostView:
    """One process as the host sees it."""

    pid: int
    uid: int
    status: dict[str, str]
    namespaces: dict[str, str]
    """By name; empty where only root may look."""
    own_namespaces: dict[str, str]
    """Of the process that looked."""
    peer_pid: int = 0
    """Who speaks over the link, as the host's kernel says (SO_PEERCRED)."""
    program: str = ""
    """Path of its program; empty where only root may look."""
    kernel: str = ""
    """The host's kernel's release."""
    root_read_only: bool = False
    environment: str = ""
    """Of the mount of a prepared environment: "ro", "rw", or "" for none."""
    interfaces: tuple[str, ...] = ()
    """Of its network namespace, by name."""
    routes: int = 0
    """That lead anywhere but to the loopback interface."""
    limits: dict[str, str] = field(default_factory=dict)
    """Its cgroup's, named as the probe names them; "" where the host does not show one."""


def look_at(pid: int, peer_pid: int) -> HostView | None:
    """The process with that number; None where there is none, or numbers here are not the engine's."""
    if pid <= 0 or peer_pid <= 0:
        return None  # ended, or a pid namespace of our own, in which the host's processes have no number
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    uids = lines.get("Uid", "").split()
    return HostView(
        pid=pid,
        uid=int(uids[1]) if len(uids) > 1 else -1,
        status={name: lines.get(name, "").strip() for name in STATUS},
        namespaces=_namespaces(str(pid)),
        own_namespaces=_namespaces("self"),
        peer_pid=peer_pid,
        program=_program(pid),
        kernel=os.uname().release,
        root_read_only=_mount_mode(pid, "/") == "ro",
        environment=_mount_mode(pid, ENVIRONMENT),
        interfaces=_interfaces(pid),
        routes=_routes(pid),
        limits=_limits(pid),
    )


def _namespaces(process: str) -> dict[str, str]:
    try:
        return {name: os.readlink(f"/proc/{process}/ns/{name}") for name in NAMESPACES}
    except OSError:
        return {}  # another user's, and we are not root


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _mount_mode(pid: int, point: str) -> str:
    """How that is mounted there: "ro", "rw", or "" where it is no mount."""
    fields = [line.split() for line in _text(Path(f"/proc/{pid}/mountinfo")).splitlines()]
    options = [each[5].split(",") for each in fields if len(each) > 5 and each[4] == point]
    return "" if not options else "ro" if "ro" in options[-1] else "rw"


def _interfaces(pid: int) -> tuple[str, ...]:
    lines = _text(Path(f"/proc/{pid}/net/dev")).splitlines()[2:]
    return tuple(sorted(line.partition(":")[0].strip() for line in lines))


def _routes(pid: int) -> int:
    four = [line.split()[0] for line in _text(Path(f"/proc/{pid}/net/route")).splitlines()[1:] if line.strip()]
    six = [line.split()[-1] for line in _text(Path(f"/proc/{pid}/net/ipv6_route")).splitlines() if line.strip()]
    return sum(interface != "lo" for interface in four + six)


def _limits(pid: int) -> dict[str, str]:
    groups: dict[str, str] = {}
    for line in _text(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path.lstrip("/"))

    def old(controller: str, name: str) -> str:
        return _text(_CGROUPS / controller / groups[controller] / name) if controller in groups else ""

    def new(name: str) -> str:
        return _text(_CGROUPS / groups[""] / name) if "" in groups else ""

    return {
        "memory.max": new("memory.max") or old("memory", "memory.limit_in_bytes"),
        "memory.swap.max": new("memory.swap.max"),
        "memsw": old("memory", "memory.memsw.limit_in_bytes"),
        "pids.max": new("pids.max") or old("pids", "pids.max"),
        "cpu.max": new("cpu.max") or f"{old('cpu', 'cpu.cfs_quota_us')} {old('cpu', 'cpu.cfs_period_us')}".strip(),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
