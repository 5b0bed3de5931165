"""input() and getpass(): questions to whoever runs the cell."""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from IPython.core.error import StdinNotImplementedError

from cellyard_sandbox.python_kernel.connection import Connection, Request, frame
from cellyard_sandbox.python_kernel.interrupts import Interrupts
from cellyard_sandbox.python_kernel.parents import Parents

REPLY = "input_reply"

_END_OF_INPUT = "\x04"


class Questions:
    """Asks, one question at a time, from any thread; the main one may be busy meanwhile."""

    def __init__(
        self, connection: Connection, parents: Parents, interrupts: Interrupts, post: Callable[[Request], None]
    ) -> None:
        """`post`: takes, from any thread, what comes in meanwhile and is no answer."""
        self._connection = connection
        self._parents = parents
        self._interrupts = interrupts
        self._post = post
        self._answers: deque[str] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.allowed = False
        """Whether the cell that runs may ask."""

    def input(self, prompt: Any = "", /) -> str:
        """Stands for builtins.input."""
        return self._ask(str(prompt), password=False)

    def getpass(self, prompt: str = "Password: ", stream: Any = None, *, echo_char: str | None = None) -> str:
        """Stands for getpass.getpass."""
        if stream is not None or echo_char is not None:
            warnings.warn("getpass has no terminal here: only its prompt has an effect", UserWarning, stacklevel=2)
        return self._ask(str(prompt), password=True)

    def answered(self, request: Request) -> None:
        """The event loop has received an answer. Without effect where nobody waits."""
        value = request.content.get("value")
        self._answers.append(value if isinstance(value, str) else _END_OF_INPUT)
        os.eventfd_write(self._wake, 1)

    def _ask(self, prompt: str, *, password: bool) -> str:
        if not self.allowed or not self._connection.open:
            name = "getpass" if password else "input"
            raise StdinNotImplementedError(f"{name} was called, but nobody is there to answer")
        sys.stdout.flush()
        sys.stderr.flush()
        self._receive()
        self._answers.clear()  # of a question that was given up
        question = {"prompt": prompt, "password": password}
        self._connection.send(frame("input_request", self._parents.current().msg_id, question))
        ready = select.poll()
        for descriptor in (self._connection.fileno(), self._wake):
            ready.register(descriptor, select.POLLIN)
        try:
            while not self._answers:
                ready.poll()
                self._receive()
            os.eventfd_read(self._wake)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted by user") from None  # without what stands here in its traceback
        answer = self._answers.popleft()
        if answer == _END_OF_INPUT:
            raise EOFError
        return answer

    def _receive(self) -> None:
        with self._interrupts:
            for request in self._connection.receive():
                if request.kind == REPLY:
                    self.answered(request)
                else:
                    self._post(request)
