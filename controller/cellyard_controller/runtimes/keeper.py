"""Keeps one sandbox of the process runtime: starts its agent, and leaves nothing of it behind.

Runs as a script of its own between controller and agent, on the standard library alone. It is told to end
(SIGTERM) or to kill (SIGUSR1), and the kernel sends it the latter when the controller dies, however that
happens. As the reaper of orphans it finds every process that the agent ever started, also those that left its
session.

Arguments: process id of the controller, limits as a JSON object ({"core": 0}), then the agent's command.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
END = signal.SIGTERM
KILL = signal.SIGUSR1
SIGNALS = {END, KILL, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP}
ROUND_S = 0.005
KILL_BOUND_S = 5.0
COMMAND_FAILED = 127


def main() -> int:
    """Runs the agent and returns its exit code, 128 and the signal's number where one ended it."""
    controller, limits, command = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    prctl(PR_SET_PDEATHSIG, KILL)
    if os.getppid() != controller:
        return 1  # it died before the kernel knew whom to tell
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (limit, limit))
    agent = start(command)
    status = wait(agent)
    kill_descendants()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def start(command: list[str]) -> int:
    """The agent's process id. It is killed with this process."""
    keeper = os.getpid()
    agent = os.fork()
    if agent:
        return agent
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == keeper:
        try:
            os.execv(command[0], command)
        except OSError as error:
            print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)
    os._exit(COMMAND_FAILED)


def wait(agent: int) -> int:
    """The agent's wait status, once it has ended; until then signals are passed on and orphans reaped."""
    while True:
        number = signal.sigwait(SIGNALS)
        if number == KILL:
            os.kill(agent, signal.SIGKILL)
        elif number != signal.SIGCHLD:
            os.kill(agent, signal.SIGTERM)
        while (ended := reap()) is not None:
            pid, status = ended
            if pid == agent:
                return status


def reap() -> tuple[int, int] | None:
    """A child that ended, and its wait status; None where there is none."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def kill_descendants() -> None:
    """Kills whatever the agent left, in rounds, for some of it may be forking."""
    give_up = time.monotonic() + KILL_BOUND_S
    while time.monotonic() < give_up:
        found = descendants(os.getpid())
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # gone meanwhile, or it took another user's rights
        while reap() is not None:
            pass
        time.sleep(ROUND_S)


def descendants(root: int) -> list[int]:
    """The living processes below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        parent = living_parent(name) if name.isdigit() else None
        if parent is not None:
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def living_parent(pid: str) -> int | None:
    """The parent of a process; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(parent)


def prctl(option: int, value: int) -> None:
    """Sets an attribute of this process. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main())
