"""What the agent sees of its own confinement, told at each Hello and compared with what the host says."""

from __future__ import annotations

import os
from pathlib import Path

from cellyard_proto.v1 import link_pb2


def gather() -> link_pb2.Facts:
    """The facts as they are now; what cannot be read stays empty or -1."""
    status = _status()
    return link_pb2.Facts(
        uid=os.getuid(),
        cap_eff=status.get("CapEff", ""),
        no_new_privs=_number(status.get("NoNewPrivs")),
        seccomp=_number(status.get("Seccomp")),
        root_read_only=_root_read_only(),
        interfaces=_interfaces(),
        routes=_routes(),
    )


def _status() -> dict[str, str]:
    lines = _lines("/proc/self/status")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _root_read_only() -> bool:
    # statvfs would tell as well, but not on gVisor.
    fields = [line.split() for line in _lines("/proc/self/mountinfo")]
    options = [each[5].split(",") for each in fields if len(each) > 5 and each[4] == "/"]
    return bool(options) and "ro" in options[-1]


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else -1


def _interfaces() -> list[str]:
    return sorted(line.partition(":")[0].strip() for line in _lines("/proc/net/dev")[2:])


def _routes() -> int:
    """Routes that lead anywhere but to the loopback interface."""
    four = [line.split()[0] for line in _lines("/proc/net/route")[1:] if line.strip()]
    six = [line.split()[-1] for line in _lines("/proc/net/ipv6_route") if line.strip()]
    return sum(interface != "lo" for interface in four + six)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("ascii", errors="replace").splitlines()
    except OSError:
        return []
