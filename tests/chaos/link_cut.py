"""Cuts an agent's connection from outside: through a duplicate of the controller's own socket."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time

_PIDFD_GETFD = 438
_LOOK_AGAIN_AFTER = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


def cut_link(pid: int, within: float) -> int:
    """Shuts the one agent connection of controller `pid` down; returns the socket's inode.

    Needs root, as every look into another process does. Raises TimeoutError where no agent is connected for
    `within` seconds: from outside nothing tells when it is, so this looks again and again.
    """
    until = time.monotonic() + within
    process = os.pidfd_open(pid)
    try:
        while time.monotonic() < until:
            for name in os.listdir(f"/proc/{pid}/fd"):
                inode = _shut_down(process, pid, name)
                if inode is not None:
                    return inode
            threading.Event().wait(_LOOK_AGAIN_AFTER)
    finally:
        os.close(process)
    raise TimeoutError(f"no agent is connected to {pid}")


def _shut_down(process: int, pid: int, name: str) -> int | None:
    """Shuts a descriptor down if it is an agent's connection that still stands."""
    try:
        if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            return None
    except FileNotFoundError:
        return None  # closed since it was listed
    number = _libc.syscall(_PIDFD_GETFD, process, int(name), 0)
    if number < 0:
        return None  # closed since it was listed
    with socket.socket(fileno=number) as found:
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        here = found.getsockname()
        if found.family != socket.AF_UNIX or listens or not str(here).endswith("/agent.sock"):
            return None
        try:
            found.getpeername()
            found.shutdown(socket.SHUT_RDWR)
        except OSError:
            return None  # it was cut before, and the controller has not closed it yet
        return os.fstat(number).st_ino
