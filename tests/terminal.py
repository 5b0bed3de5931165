"""A program on a terminal of its own, as somebody sits before it: what it shows is waited for, keys are typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

WITHIN_S = 90.0
CTRL_C, CTRL_D, ENTER, TAB = "\x03", "\x04", "\r", "\t"

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[=>]|[()][A-Z0-9])")


class Terminal:
    """One program and its terminal, 100 columns wide. Leaving `with` ends both."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, stdout: int | None = None) -> None:
        """`stdout`: where that goes, if not to the terminal."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.raw = b""
        """Everything that came, escapes and all."""
        self._read_to = 0
        self._slave = slave  # kept: the modes can still be asked for when the program has ended
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    @property
    def text(self) -> str:
        """Everything that came, without escapes."""
        return _ESCAPES.sub("", self.raw.decode(errors="replace")).replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        """Types keys."""
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        """Types a line and Enter."""
        self.type(line + ENTER)

    def expect(self, wanted: str, within: float = WITHIN_S) -> str:
        """Waits until this is shown, behind what was waited for before; returns what came until then."""
        deadline = time.monotonic() + within
        while (at := self.text.find(wanted, self._read_to)) < 0:
            if not self._read(deadline):
                raise AssertionError(f"{wanted!r} was not shown; this was: {self.text[self._read_to :]!r}")
        before = self.text[self._read_to : at]
        self._read_to = at + len(wanted)
        return before

    def ended(self) -> int:
        """Waits for the program's end and reads the rest; returns its exit code."""
        deadline = time.monotonic() + WITHIN_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(min(deadline, time.monotonic() + 0.05))
        while self._read(time.monotonic()):
            pass
        assert self.process.returncode is not None, f"it goes on; this was shown: {self.text[self._read_to :]!r}"
        return self.process.returncode

    def modes_now(self) -> list[object]:
        """The terminal's modes: echo, line by line, ..."""
        return termios.tcgetattr(self._slave)

    def _read(self, deadline: float) -> bool:
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        self.raw += os.read(self._master, 65536)
        return True


def cellyard(*arguments: str, env: Mapping[str, str], stdout: int | None = None) -> Terminal:
    """The command line on a terminal."""
    return Terminal([sys.executable, "-m", "cellyard.cli", *arguments], env, stdout=stdout)
