"""What carries a kernel's messages: the interface that `channels` (ZeroMQ) and `socket_channels` implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from cellyard_sandbox import wire
from cellyard_sandbox.messages import Chunk

END_OF_INPUT = "\x04"
"""The answer to a question that nobody answers; for it ipykernel raises EOFError."""

OnMessage: TypeAlias = Callable[[wire.Message], None]


class Channels(Protocol):
    """The agent's ends. Belongs to the event loop's thread; nothing that it does waits for the kernel."""

    command: list[str]
    """The kernel that speaks at the other end."""
    program: str
    """What that is called where it is told why it has ended."""
    inherited: Sequence[int]
    """Descriptors that it is given, under the same numbers."""
    hung_up: bool
    """The kernel's end is closed, and everything that it had sent can be read."""
    heard_at: float
    """When something came last, on the event loop's clock."""

    def started(self) -> None:
        """The kernel has what it inherits."""

    def send(self, request: wire.Request) -> None:
        """Sends a request to the kernel."""

    def answer(self, request: wire.Request) -> None:
        """Sends an answer to what the kernel asked."""

    def set_environment(self, env: Mapping[str, str]) -> None:
        """Sets variables in the kernel, before whatever is sent to it next."""

    def interrupt(self) -> bool:
        """Asks the kernel to end its run; False for one that wants a SIGINT instead."""

    def read_iopub(self) -> None:
        """Reads what was published before what was read last, or much of it."""

    def read_rest(self) -> None:
        """Reads what waits."""

    def last_words(self) -> list[Chunk]:
        """What the kernel, which has ended, and its programs wrote to their descriptors without anybody reading it."""

    def close(self) -> None:
        """Closes the channels; nothing is called any more."""


OpenChannels: TypeAlias = Callable[[Path, OnMessage, OnMessage, OnMessage, Callable[[], None]], Channels]
"""Opens channels for a new kernel. Takes a folder of its own; what to call with messages from its shell channel, from
iopub and from stdin (Jupyter messaging: "Introduction"), and once it has hung up. Raises OSError and ValueError."""
