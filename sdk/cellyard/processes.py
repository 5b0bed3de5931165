"""What `exec` and `stream_exec` give: a command beside the kernel, its output and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cellyard._display import shorten


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a command ended, and what it wrote."""

    exit_code: int | None
    """None where a signal ended it."""
    signal: int | None
    """The signal that ended it, if one did."""
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    """It was killed at its `timeout`."""
    discarded_bytes: int = 0
    """What it wrote past the limit of output."""
    duration: float = 0.0
    """Seconds."""

    @property
    def success(self) -> bool:
        """It ended by itself, with exit code 0."""
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """What it wrote to stdout, as text."""
        return self.stdout.decode(errors="replace")

    def __repr__(self) -> str:
        end = f"signal {self.signal}" if self.signal else f"exit code {self.exit_code}"
        return f"ProcessResult({end}, stdout={shorten(self.text, 200)!r})"


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """It runs."""

    pid: int
    """In the sandbox."""


@dataclass(frozen=True, slots=True)
class ProcessOutput:
    """Something that it wrote, as it came: a piece may end anywhere."""

    name: str
    """`stdout` or `stderr`."""
    data: bytes

    @property
    def text(self) -> str:
        """The same as text."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """The end, with everything that it wrote; always the last event."""

    result: ProcessResult


ProcessEvent: TypeAlias = ProcessStarted | ProcessOutput | ProcessEnded
"""Everything that `stream_exec` may give."""
