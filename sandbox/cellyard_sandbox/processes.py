"""The processes of a sandbox: started, reaped, stopped and killed.

As PID 1 of a container the agent has every other process under it. Elsewhere it makes itself the reaper of
orphans, so that whatever the kernel starts stays below it, even in sessions of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_KILL_ROUND_S = 0.005
_ROUNDS = 10

OnExit = Callable[[int, resource.struct_rusage], None]
"""Called with the wait status and what the process used."""


def die_with(parent: int) -> None:
    """Lets this process be killed as soon as its parent ends. Ends it where the parent is gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def be_killed_first() -> None:
    """Where memory runs out, the kernel goes before the agent, which can then tell what happened."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    except OSError:
        pass


def keep_to_oneself() -> None:
    """Keeps processes of the same user, which is all that code in cells is, out of this one's memory and files."""
    _prctl(_PR_SET_DUMPABLE, 0)


class Processes:
    """Everything that runs below the agent. Belongs to the event loop's thread."""

    def __init__(self, *, alone: bool) -> None:
        """`alone`: the agent is PID 1, and everything else that it can see is the sandbox's."""
        self._alone = alone
        self._watched: dict[int, OnExit] = {}
        if not alone:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reaps from now on, orphans too."""
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(
        self, argv: list[str], env: Mapping[str, str], stderr: int, on_exit: OnExit, inherited: Sequence[int] = ()
    ) -> int:
        """Starts a process in a session of its own, with these descriptors, and returns its id. Raises OSError."""
        pid = os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
                *((os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherited),  # no more close-on-exec
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
        )
        self._watched[pid] = on_exit
        return pid

    def start(self, argv: list[str], env: Mapping[str, str], streams: tuple[int, int, int], on_exit: OnExit) -> int:
        """Starts a program, looked up in PATH, with these as its stdin, stdout and stderr. Raises OSError."""
        pid = os.posix_spawnp(
            argv[0],
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs, number) for number, theirs in enumerate(streams)],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
        )
        self._watched[pid] = on_exit
        return pid

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of them."""
        if self._alone:
            _send(os.kill, -1, number)
            return
        reached: set[int] = set()
        for _ in range(_ROUNDS):  # what was started meanwhile is found in the next
            found = [pid for pid in _descendants(os.getpid()) if pid not in reached]
            for pid in found:
                _send(os.kill, pid, number)
            if not found:
                return
            reached.update(found)

    async def kill(self, timeout_s: float = 5.0) -> None:
        """Kills all of them and returns once they are gone, or after the timeout."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while True:
            self.signal(signal.SIGCONT)  # a stopped process dies too, but its parent may wait for it to go on
            self.signal(signal.SIGKILL)
            self._reap()
            if not self._any_left() or loop.time() > give_up:
                return
            await asyncio.sleep(_KILL_ROUND_S)  # what was forking meanwhile is caught in the next round

    def _any_left(self) -> bool:
        if self._watched:
            return True
        return len(_process_ids()) > 1 if self._alone else bool(_descendants(os.getpid()))

    def _reap(self) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            on_exit = self._watched.pop(pid, None)
            if on_exit is not None:
                on_exit(status, used)


def interrupt_group(leader: int) -> None:
    """SIGINT for a process and those in its group, as a terminal does it; one that is stopped goes on first."""
    _send(os.killpg, leader, signal.SIGCONT)
    _send(os.killpg, leader, signal.SIGINT)


def _send(call: Callable[[int, int], None], target: int, number: signal.Signals) -> None:
    try:
        call(target, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone meanwhile, or nobody is there


def _descendants(root: int) -> list[int]:
    """The living processes below this one, parents first."""
    children: dict[int, list[int]] = {}
    for pid in _process_ids():
        parent = _parent_of(pid)
        if parent is not None:
            children.setdefault(parent, []).append(pid)
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _process_ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent_of(pid: int) -> int | None:
    """The parent of a living process; None for one that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(parent)


def _prctl(option: int, value: int) -> None:
    # All of these exist since Linux 3.4; a failure leaves what they add undone, and nothing else.
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
