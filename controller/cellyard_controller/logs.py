"""What the controller writes to stderr: structured, with ids, never code or secrets.

Lines about a request, a notebook or an execution carry `tenant`, `notebook_id` and `execution_id`: they are bound where
a call is read (api) and where a room's task begins, and every line from there on has them.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import shutil
import stat
import sys
import traceback
from pathlib import Path
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from cellyard_controller.config import LogConfig

_LONGEST = 300
_FRAMES = 30
_LOOK_AFTER = 64 * 1024


def configure(config: LogConfig) -> None:
    """Sets structlog up for this process."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shown = (
        structlog.processors.JSONRenderer()
        if config.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            without_content,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_bounded(sys.stderr, config.max_bytes)),
        cache_logger_on_first_use=True,
    )


def without_content(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """An exception as where it came from: its message may quote what a client sent, a statement's values for one.

    Messages of our own errors and of the system's are kept: they name ids and paths.
    """
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else sys.exc_info()[1]
    if error is not None:
        event["exception"] = "\n".join(_lines(error))
    return event


def _lines(error: BaseException) -> list[str]:
    lines: list[str] = []
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        lines.append(_what(error))
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            break
        lines.append("from")
        error = before
    return lines


def _what(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, OSError):
        return f"{kind.__name__}: {error.strerror}"
    if kind.__module__.partition(".")[0] == "cellyard_controller":
        return f"{kind.__name__}: {str(error)[:_LONGEST]}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _bounded(stream: TextIO, max_bytes: int) -> TextIO:
    """Of a file that is appended to, and that nobody else turns over, no more is kept than this, and as much before."""
    try:
        descriptor = stream.fileno()
        appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        if not appends or not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return stream
    except (OSError, ValueError):
        return stream
    return cast(TextIO, _Bounded(descriptor, max_bytes))


class _Bounded(io.TextIOBase):
    """Writes to a file, and begins it anew when it has grown too large; what was in it is beside it then."""

    def __init__(self, descriptor: int, max_bytes: int) -> None:
        self._descriptor, self._max_bytes = descriptor, max_bytes
        self._unseen = _LOOK_AFTER

    def write(self, text: str) -> int:
        content = text.encode(errors="backslashreplace")
        self._unseen += len(content)
        try:
            if self._unseen >= min(_LOOK_AFTER, self._max_bytes):
                self._unseen = 0
                if os.fstat(self._descriptor).st_size >= self._max_bytes:
                    self._turn_over()
            os.write(self._descriptor, content)
        except OSError:
            pass  # a full disk must not end the controller
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _turn_over(self) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
        try:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        except OSError:
            pass  # then it is only begun anew
        os.ftruncate(self._descriptor, 0)
