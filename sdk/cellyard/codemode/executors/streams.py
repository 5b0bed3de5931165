"""Gives what code prints to its run, while all other threads of the program keep their streams.

While anything is captured, sys.stdin, stdout and stderr are stand-ins that look who it is that uses them. A thread
that code starts belongs to the run that started it.
"""

from __future__ import annotations

import codecs
import contextvars
import functools
import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MAX_BYTES = 10 * 1024 * 1024
"""Bytes of one stream of one run in UTF-8; the rest is cut."""

_NAMES = ("stdin", "stdout", "stderr")


class Captured(io.TextIOBase):
    """A stream of one run."""

    def __init__(self, name: str, most: int = MAX_BYTES) -> None:
        self._name = name
        self._left = self._most = most
        self._parts: list[str] = []
        self._lock = threading.Lock()
        self._open = True
        self._cut = False
        self.buffer = _Bytes(self)
        """Takes bytes, as that of a real stream does."""

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        """Keeps the text until it is too much, and nothing once the run is over."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            if self._open and not self._cut:
                self._add(str.__str__(text))
        return len(text)

    def close(self) -> None:
        """Code may close what it takes for the program's own stream: that goes on."""

    def end(self) -> str:
        """What was written. Whatever writes from now on, writes to nowhere."""
        with self._lock:
            self._open = False
            text, self._parts = "".join(self._parts), []
        return text

    def _add(self, text: str) -> None:
        if not text:
            return
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size <= self._left:
            self._left -= size
            self._parts.append(text)
            return
        whole = text[: self._left].encode("utf-8", "replace")[: self._left].decode("utf-8", "ignore")
        before = "" if (whole or "".join(self._parts[-1:]) or "\n").endswith("\n") else "\n"
        self._parts += [whole, f"{before}[cellyard: output truncated after {self._most} bytes]\n"]
        self._cut = True


class _Bytes(io.RawIOBase):
    """Bytes on their way into a stream of text. Half a character waits for its other half."""

    def __init__(self, text: Captured) -> None:
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        with self._lock:
            self._text.write(self._decoder.decode(content))
        return len(content)


class Capture:
    """The streams of one run, and whatever else belongs to it: `owner`."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.stdin = io.StringIO()
        """Always at its end: nobody is there to answer."""
        self.stdout = Captured("stdout")
        self.stderr = Captured("stderr")


_here: contextvars.ContextVar[Capture | None] = contextvars.ContextVar("cellyard_capture", default=None)


def here() -> Capture | None:
    """The one that what runs here and now belongs to."""
    return _here.get()


@contextmanager
def captured(capture: Capture) -> Iterator[None]:
    """Makes this thread, or task, belong to it."""
    token = _here.set(capture)
    try:
        yield
    finally:
        _here.reset(token)


class _StandIn:
    """Stands for one of sys' streams: the run's own for whoever belongs to one, else what was there before."""

    def __init__(self, name: str, before: Any) -> None:
        self._cellyard_name = name
        self._cellyard_before = before

    def __getattr__(self, attribute: str) -> Any:
        capture = _here.get()
        return getattr(self._cellyard_before if capture is None else getattr(capture, self._cellyard_name), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__getattr__("__iter__")())

    def __repr__(self) -> str:
        return repr(self._cellyard_before)


class Streams:
    """Who captures in this process. There is one, `STREAMS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stand_ins: dict[str, _StandIn] = {}
        self._start: Callable[[threading.Thread], None] | None = None

    def begin(self) -> None:
        """Somebody captures from now on."""
        with self._lock:
            self._users += 1
        self.ensure()

    def ensure(self) -> None:
        """Puts the stand-ins, and what makes threads belong to runs, into their places again.

        Code and program may both put streams of their own there: what the program has put there meanwhile is what
        stands behind the stand-ins from now on.
        """
        with self._lock:
            if not self._users:
                return
            for name in _NAMES:
                now = getattr(sys, name)
                # A stand-in of ours may come back from whoever put something else there for a while.
                self._stand_ins[name] = now if isinstance(now, _StandIn) else _StandIn(name, now)
                setattr(sys, name, self._stand_ins[name])
            if self._start is None:
                self._start = threading.Thread.start
                threading.Thread.start = _starting(self._start)  # type: ignore[assignment,method-assign]

    def restore(self) -> None:
        """At a run's end: takes back what code has put into the streams' places."""
        with self._lock:
            for name, stand_in in self._stand_ins.items():
                setattr(sys, name, stand_in)

    def end(self) -> None:
        """Somebody captures no more. With the last one everything is as it was."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for name, stand_in in self._stand_ins.items():
                if getattr(sys, name) is stand_in:
                    setattr(sys, name, stand_in._cellyard_before)
            self._stand_ins.clear()
            if self._start is not None and getattr(threading.Thread.start, "_cellyard", False):
                threading.Thread.start = self._start  # type: ignore[assignment,method-assign]
                self._start = None


STREAMS = Streams()


def _starting(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Thread.start that lets a thread belong to the run of whoever starts it."""

    @functools.wraps(start)
    def start_in_run(thread: threading.Thread) -> None:
        capture = _here.get()
        if capture is None:
            start(thread)
            return
        own, run = vars(thread).get("run"), thread.run

        def restored() -> None:
            vars(thread).pop("run", None)
            if own is not None:
                vars(thread)["run"] = own

        def run_in_capture() -> None:
            restored()
            _here.set(capture)
            run()

        vars(thread)["run"] = run_in_capture
        try:
            start(thread)
        except BaseException:
            restored()
            raise

    start_in_run._cellyard = True  # type: ignore[attr-defined]
    return start_in_run
