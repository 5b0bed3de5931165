"""Events on their way to the controller: numbered, and kept until it has committed them.

An event is first staged, so that text written in many small pieces becomes few events; sealing numbers what
is staged. Pure: when to seal and when to send is decided by the link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox.text import size_of

BATCH_BYTES = 64 * 1024
"""A batch is sent once it has this many bytes."""

MAX_TEXT = 1024 * 1024
"""Characters of one stream event, at most."""

HIGH_BYTES = 8 * 1024 * 1024
HIGH_COUNT = 10_000
"""Above these the kernel is to be stopped; below half of them it may go on."""


@dataclass(slots=True)
class _Staged:
    execution_id: str
    event: link_pb2.Event | None
    size: int
    stream: str = ""
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sealed:
    number: int
    event: link_pb2.Event
    size: int


class Outbox:
    """Owned by the agent; every event goes through here exactly once and in order."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called whenever something was staged, sealed or acknowledged."""
        self._on_change = on_change
        self.last_number = 0
        """Number of the last event that was sealed."""
        self._staged: deque[_Staged] = deque()
        self._staged_bytes = 0
        self._unsent: deque[_Sealed] = deque()
        self._sent: deque[_Sealed] = deque()  # on this connection, and not acknowledged
        self._sealed_bytes = 0

    def stage_text(self, execution_id: str, stream: str, text: str) -> None:
        """Adds text that was written to a stream; it joins the text before it where there is some."""
        for start in range(0, len(text), MAX_TEXT):
            piece = text[start : start + MAX_TEXT]
            size = size_of(piece)
            last = self._staged[-1] if self._staged else None
            if (
                last is not None
                and last.stream == stream
                and last.execution_id == execution_id
                and last.size < BATCH_BYTES
            ):
                last.parts.append(piece)
                last.size += size
            else:
                self._staged.append(_Staged(execution_id, None, size, stream, [piece]))
            self._staged_bytes += size
        self._on_change()

    def stage(self, execution_id: str, event: link_pb2.Event, size: int) -> None:
        """Adds an event; its number and execution are filled in here."""
        self._staged.append(_Staged(execution_id, event, size))
        self._staged_bytes += size
        self._on_change()

    def seal(self) -> int:
        """Numbers everything that is staged. Returns the last number."""
        if not self._staged:
            return self.last_number
        while self._staged:
            staged = self._staged.popleft()
            event = staged.event or _text_event(staged)
            self.last_number += 1
            event.number = self.last_number
            event.execution_id = staged.execution_id
            size = event.ByteSize()
            self._unsent.append(_Sealed(self.last_number, event, size))
            self._sealed_bytes += size
        self._staged_bytes = 0
        self._on_change()
        return self.last_number

    @property
    def staged(self) -> bool:
        """Something waits to be sealed."""
        return bool(self._staged)

    @property
    def batch_ready(self) -> bool:
        """Enough is staged for a batch."""
        return self._staged_bytes >= BATCH_BYTES

    def next_batch(self) -> link_pb2.Batch | None:
        """The next sealed events that this connection has not been given; None where there are none."""
        if not self._unsent:
            return None
        batch = link_pb2.Batch()
        size = 0
        while self._unsent and (size == 0 or size + self._unsent[0].size <= BATCH_BYTES):
            sealed = self._unsent.popleft()
            batch.events.append(sealed.event)
            self._sent.append(sealed)
            size += sealed.size
        return batch

    @property
    def unsent(self) -> bool:
        """Something is sealed that this connection has not been given."""
        return bool(self._unsent)

    @property
    def sent_number(self) -> int:
        """Every event up to this number was given to this connection or is acknowledged."""
        return self._unsent[0].number - 1 if self._unsent else self.last_number

    def acknowledge(self, number: int) -> None:
        """Forgets the events up to this number; a number from the past changes nothing."""
        for kept in (self._sent, self._unsent):
            while kept and kept[0].number <= number:
                self._sealed_bytes -= kept.popleft().size
        self._on_change()

    def rewind(self, committed: int) -> None:
        """A new connection: what is not committed is sent again."""
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self.acknowledge(committed)

    @property
    def full(self) -> bool:
        """So much is unacknowledged that the kernel must wait."""
        return self._over(HIGH_BYTES, HIGH_COUNT)

    @property
    def low(self) -> bool:
        """So little is unacknowledged that the kernel may go on."""
        return not self._over(HIGH_BYTES // 2, HIGH_COUNT // 2)

    def _over(self, size: int, count: int) -> bool:
        events = len(self._staged) + len(self._unsent) + len(self._sent)
        return self._sealed_bytes + self._staged_bytes > size or events > count


def _text_event(staged: _Staged) -> link_pb2.Event:
    text = "".join(staged.parts)
    return link_pb2.Event(output=outputs_pb2.Output(stream=outputs_pb2.StreamOutput(name=staged.stream, text=text)))
