"""stdout and stderr of the kernel: nothing that anybody writes to them is lost.

Text of Python code goes to the agent when it is flushed, a moment after it was written, or when there is much of it.
What programs and C code write to the descriptors comes through pipes and joins it.
"""

from __future__ import annotations

import codecs
import fcntl
import io
import itertools
import os
import select
import threading
import time
from operator import itemgetter
from typing import Any

from cellyard_sandbox.python_kernel.connection import Connection, frame
from cellyard_sandbox.python_kernel.interrupts import Interrupts
from cellyard_sandbox.python_kernel.parents import Parents
from cellyard_sandbox.text import clean

_SOON_S = 0.05
_PIECE = 1024 * 1024  # characters of one message
_HELD = 4 * 1024 * 1024  # characters that wait for their message, at most
_READ = 64 * 1024
_READS_A_FLUSH = 16  # a program that never stops writing must not hold up the cell's end
_PIPE_BYTES = 1024 * 1024


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr. In a forked process, which has no agent, it writes lines to the descriptor."""

    encoding = "UTF-8"
    errors = "replace"

    def __init__(self, name: str, pipe: tuple[int, int], pump: Pump) -> None:
        """Becomes what is at the other end of descriptor 1 or 2. `pipe`: both its ends."""
        self.name = name
        self._descriptor = {"stdout": 1, "stderr": 2}[name]
        self._pump = pump
        self._pieces: list[tuple[str, str]] = []
        self._waiting = 0
        self._lock = threading.RLock()
        self._pipe, end = pipe
        self._pipe_lock = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._forked = False
        self._line = ""  # of a forked process
        arrived = select.poll()
        arrived.register(self._pipe, select.POLLIN)
        self._arrived = arrived.poll
        os.set_inheritable(self._pipe, False)
        os.set_blocking(self._pipe, False)
        try:
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass  # the user's pipes are large enough together already
        os.dup2(end, self._descriptor)
        os.close(end)
        os.register_at_fork(after_in_child=self._become_forked)

    def writable(self) -> bool:
        """See io.IOBase."""
        return True

    def isatty(self) -> bool:
        """See io.IOBase."""
        return False

    def fileno(self) -> int:
        """The descriptor, for programs; what is written to it comes in order with what is written here."""
        return self._descriptor

    def close(self) -> None:
        """Flushes. The stream stays open: others write to it too."""
        self.flush()

    def write(self, string: Any) -> int:
        """Writes text; see io.TextIOBase."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if self._forked:
            return self._write_forked(string)
        # What programs and C code have written before this stands before it. print() writes line ends by themselves.
        if string != "\n" and self._has_arrived():
            with self._pump.interrupts:
                self.read_pipe(_READS_A_FLUSH)
        self._keep(self._pump.parents.current().msg_id, str(string))
        self.flush_much()
        return len(string)

    def writelines(self, lines: Any) -> None:
        """See io.IOBase."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Sends what was written, to the descriptor as well."""
        if self._forked:
            self._flush_forked()
            return
        with self._pump.interrupts:
            self.read_pipe(_READS_A_FLUSH)
            if self._pieces:
                self._send()

    def flush_much(self) -> None:
        """Flushes if much waits."""
        if self._waiting > _HELD:
            self.flush()

    def read_pipe(self, reads: int = 1) -> bool:
        """Takes over what waits in the descriptor's pipe. False at its end."""
        with self._pipe_lock:
            for _ in range(reads):
                try:
                    data = os.read(self._pipe, _READ)
                except BlockingIOError:
                    return True
                except OSError:
                    return False
                if not data:
                    return False
                text = self._decoder.decode(data)
                if text:
                    # Whoever reads it, it belongs to the cell that runs, not to the thread that flushes.
                    self._keep(self._pump.parents.latest.msg_id, text)
        return True

    def pipe(self) -> int:
        """The end of the descriptor's pipe to read from."""
        return self._pipe

    def _has_arrived(self) -> bool:
        with self._pipe_lock:  # whoever reads the pipe has kept what it read
            return bool(self._arrived(0))

    def _keep(self, parent: str, text: str) -> None:
        with self._lock:
            self._pieces.append((parent, text))
            self._waiting += len(text)
        self._pump.flush_soon()

    def _send(self) -> None:
        connection = self._pump.connection
        with self._lock:
            self._waiting = 0
            while self._pieces:
                parent, group = next(itertools.groupby(self._pieces, itemgetter(0)))
                same = [text for _, text in group]
                text = "".join(same)
                parts = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
                connection.queue(*(frame("stream", parent, {"name": self.name, "text": part}) for part in parts))
                del self._pieces[: len(same)]  # not before: a signal's handler may raise anywhere
        connection.drain()

    def _become_forked(self) -> None:
        self._forked = True
        self._pieces = []  # the parent has them
        self._lock, self._pipe_lock = threading.RLock(), threading.RLock()
        os.close(self._pipe)

    def _write_forked(self, string: str) -> int:
        self._line += clean(string)
        if "\n" in string or len(self._line) > _READ:
            self._flush_forked()
        return len(string)

    def _flush_forked(self) -> None:
        rest, self._line = memoryview(self._line.encode()), ""
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


class Pump:
    """The thread that reads the pipes, and flushes what nobody else does."""

    def __init__(self, connection: Connection, parents: Parents, interrupts: Interrupts) -> None:
        self.connection = connection
        self.parents = parents
        self.interrupts = interrupts
        self._due = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self, streams: list[Stream]) -> None:
        """From now on these streams are read and flushed."""
        threading.Thread(target=self._run, args=(streams,), name="cellyard-streams", daemon=True).start()

    def flush_soon(self) -> None:
        """There is something to flush."""
        if not self._due:
            self._due = True
            os.eventfd_write(self._wake, 1)

    def _run(self, streams: list[Stream]) -> None:
        by_pipe = {stream.pipe(): stream for stream in streams}
        ready = select.poll()
        for descriptor in (self._wake, *by_pipe):
            ready.register(descriptor, select.POLLIN)
        flush_at: float | None = None
        while True:
            left_s = None if flush_at is None else flush_at - time.monotonic()
            if left_s is None or left_s > 0:
                for descriptor, _ in ready.poll(None if left_s is None else left_s * 1000):
                    if descriptor == self._wake:
                        os.eventfd_read(self._wake)
                    elif by_pipe[descriptor].read_pipe():
                        by_pipe[descriptor].flush_much()
                    else:
                        ready.unregister(descriptor)
                if self._due and flush_at is None:
                    flush_at = time.monotonic() + _SOON_S
            else:
                flush_at, self._due = None, False
                for stream in streams:
                    stream.flush()
