"""stdout and stderr of the Python kernel: ipykernel's, made lossless and quick. Runs in the kernel."""

from __future__ import annotations

import codecs
import fcntl
import os
import select
import threading
from collections.abc import Iterator
from typing import Any

from ipykernel.iostream import OutStream

from cellyard_sandbox.text import clean

_PIECE = 1024 * 1024  # characters of one message
_HELD = 4 * 1024 * 1024  # characters that wait for their message, at most
_READ = 64 * 1024
_READS_A_FLUSH = 16  # a program that never stops writing must not hold up the cell's end
_PIPE_BYTES = 1024 * 1024


class CellStream(OutStream):  # type: ignore[misc]
    """A stream of which nothing is lost, whoever writes to it and whatever.

    Other than ipykernel's it passes on what programs wrote to the descriptor before a flush, keeps characters
    whole that come in two reads, replaces surrogates rather than losing all that waits with them, sends long
    text in pieces, and takes no thread for a flush with nothing to send. A forked process writes its lines to
    the descriptor, where ipykernel opens a TCP connection for each of its writes.
    """

    def __init__(self, session: Any, pub_thread: Any, name: str, **options: Any) -> None:
        self._descriptor_lock = threading.RLock()
        self._descriptor_ready = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = 0
        self._forked = False
        self._line = ""  # of a forked process
        os.register_at_fork(after_in_child=self._become_forked)
        self._last_parent: dict[str, Any] | None = None
        self._last_key: frozenset[Any] = frozenset()
        super().__init__(session, pub_thread, name, **{**options, "watchfd": "force"})

    def write(self, string: Any) -> int:
        """Writes text; see io.TextIOBase."""
        if self._forked:
            return self._write_forked(string)
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if self.pub_thread is None:
            raise ValueError("I/O operation on closed file")
        parent = self.parent_header
        with self._buffer_lock:
            if parent is not self._last_parent:
                self._last_parent, self._last_key = parent, frozenset(parent.items())
            self._buffers[self._last_key].write(clean(string))
        if not self._flush_pending:
            self._schedule_flush()
        self._waiting += len(string)
        if self._waiting > _HELD and threading.current_thread() is not self.pub_thread.thread:
            self.flush()
        return len(string)

    def flush(self) -> None:
        """Sends what was written, to the descriptor as well, and returns once it is on its way."""
        if self._forked:
            self._flush_forked()
            return
        self._take_from_descriptor(_READS_A_FLUSH)
        self._waiting = 0
        with self._buffer_lock:
            if not self._buffers:
                return
        thread = self.pub_thread.thread if self.pub_thread is not None else None
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            self._flush()
            return
        sent = threading.Event()

        def send() -> None:
            try:
                self._flush()
            finally:
                sent.set()

        self.pub_thread.schedule(send)
        sent.wait()  # without a limit: the process may be stopped for long

    def _become_forked(self) -> None:
        self._forked = True

    def _write_forked(self, string: Any) -> int:
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        self._line += clean(string)
        if "\n" in string or len(self._line) > _READ:
            self._flush_forked()
        return len(string)

    def _flush_forked(self) -> None:
        rest, self._line = memoryview(self._line.encode()), ""
        while rest:
            rest = rest[os.write(self._original_stdstream_fd, rest) :]

    def _flush_buffers(self) -> Iterator[tuple[dict[str, Any], str]]:
        for parent, text in super()._flush_buffers():
            for start in range(0, len(text), _PIECE):
                yield parent, text[start : start + _PIECE]

    def _watch_pipe_fd(self) -> None:
        """Runs in a thread: passes on what is written to the descriptor."""
        os.set_blocking(self._fid, False)
        try:
            fcntl.fcntl(self._fid, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass  # the user's pipes are large enough together already
        self._descriptor_ready = True
        readable = select.poll()
        readable.register(self._fid, select.POLLIN)
        while self._should_watch:
            readable.poll()
            if not self._take_from_descriptor(1):
                return
            if self._waiting > _HELD:
                self.flush()

    def _take_from_descriptor(self, reads: int) -> bool:
        """Writes to the stream what waits in the descriptor's pipe. False at the pipe's end."""
        if not self._descriptor_ready:
            return True
        with self._descriptor_lock:
            for _ in range(reads):
                try:
                    data = os.read(self._fid, _READ)
                except BlockingIOError:
                    return True
                if not data:
                    return False
                text = self._decoder.decode(data)
                if text:
                    # Whoever reads it, it belongs to the cell that runs, not to the thread that flushes.
                    token = self._parent_header.set(self._parent_header_global)
                    try:
                        self._hand_over(text)
                    finally:
                        self._parent_header.reset(token)
        return True

    def _hand_over(self, text: str) -> None:
        super().write(text)
        self._waiting += len(text)
