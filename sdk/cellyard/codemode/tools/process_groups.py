"""Processes that lead a session of their own, and end with everything in it."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fcntl import ioctl

_PIECE = 64 * 1024
_END = 5.0


class ProcessGroup:
    """A process in a new session and process group, both numbered as it is.

    Its death is seen through a pidfd, and it is reaped only after its group was killed: until then the group's number
    can be nobody else's. What leaves the group for a session of its own, as daemons do, is out of reach; no pipe of
    it is waited for.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bool = False) -> None:
        """Starts it in the caller's folder; without `stdin` that is /dev/null. Raises OSError, ValueError."""
        self._process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = self._loop.create_future()
        """Done when the process has ended; others of its group may be there still."""
        self._killed = False
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._on_exit)
        except BaseException:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._close_pipes()
            raise

    @property
    def returncode(self) -> int | None:
        """None until it was ended, also where it ended by itself; negative for the signal that it died of."""
        return self._process.returncode

    def take(self, name: str) -> int:
        """The descriptor of its `stdin`, `stdout` or `stderr`, which is the caller's now."""
        pipe = getattr(self._process, name)
        descriptor = os.dup(pipe.fileno())
        os.set_blocking(descriptor, False)
        pipe.close()
        return descriptor

    def kill(self) -> None:
        """Kills every process of the group, at once; the number stays its own until it is reaped."""
        if self._killed:
            return
        self._killed = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all of it dead, or become another user's
            pass
        self._close_pipes()
        if self.exited.done():
            self._reap()

    async def end(self) -> None:
        """Kills the group and waits for its leader's death, which nothing but a stuck device can hold up for long.

        It is reaped even where this is cancelled, or gives up after 5 s.
        """
        self.kill()
        await asyncio.wait([self.exited], timeout=_END)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self.exited.done():
            self.exited.set_result(None)
        if self._killed:
            self._reap()

    def _reap(self) -> None:
        self._process.wait()  # it is dead: this returns at once

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


class Reading:
    """Hands on what comes through a pipe, until its end."""

    def __init__(self, descriptor: int, received: Callable[[bytes], None]) -> None:
        self._descriptor: int | None = descriptor
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._ready)

    def _ready(self) -> None:
        self._read(_PIECE)

    def _read(self, size: int) -> int:
        if self._descriptor is None:
            return 0
        try:
            piece = os.read(self._descriptor, size)
        except BlockingIOError:
            return 0
        if piece:
            self._received(piece)
        else:
            self.close()
        return len(piece)

    def drain(self) -> None:
        """Reads what is in the pipe now, whoever else could write to it, and lets go of it."""
        if self._descriptor is not None:
            left = struct.unpack("i", ioctl(self._descriptor, termios.FIONREAD, b"\0" * 4))[0]
            while left > 0 and (read := self._read(min(left, _PIECE))):
                left -= read
        self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()

    def add(self, piece: bytes) -> None:
        self._kept += piece
        del self._kept[: -self._limit]

    def text(self) -> str:
        return self._kept.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class Finished:
    """How a process ended, and what it said."""

    returncode: int
    stdout: bytes
    stderr: str
    """Its last 64 KiB."""


class TooMuchOutput(Exception):
    """The process said more than it may."""


async def run(argv: Sequence[str], *, env: Mapping[str, str], timeout: float, max_output: int) -> Finished:
    """Runs a program to its end. Whatever comes, nothing of its group is there when this returns or raises.

    The group is killed as soon as the program ends, says too much, takes longer than `timeout` seconds, or the caller
    is cancelled. Raises OSError, ValueError, TimeoutError, TooMuchOutput.
    """
    group = ProcessGroup(argv, env=env)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    stdout = bytearray()
    stderr = Tail(_PIECE)

    def finish(*_: object) -> None:
        if not done.done():
            done.set_result(None)

    def collect(piece: bytes) -> None:
        if len(stdout) <= max_output:
            stdout.extend(piece)
        if len(stdout) > max_output:
            finish()

    readings: list[Reading] = []
    try:
        group.exited.add_done_callback(finish)
        readings.append(Reading(group.take("stdout"), collect))
        readings.append(Reading(group.take("stderr"), stderr.add))
        async with asyncio.timeout(timeout):
            await done
        group.kill()
        for reading in readings:
            reading.drain()
    finally:
        for reading in readings:
            reading.close()
        await group.end()
    if len(stdout) > max_output:
        raise TooMuchOutput
    assert group.returncode is not None
    return Finished(group.returncode, bytes(stdout), stderr.text())
