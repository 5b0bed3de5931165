"""An agent's events: numbered over its life, kept until acknowledged, within limits of output."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cellyard_proto.v1 import link_pb2 as link
from cellyard_proto.v1 import outputs_pb2 as outputs

_BATCH = 500


@dataclass(slots=True)
class _Shown:
    size: int = 0
    count: int = 0
    stream: str = ""
    saturated: bool = False


class Events:
    """What happened, in order. Ids of executions are taken once."""

    def __init__(self) -> None:
        self.last_number = 0
        self.limits = link.Welcome(output_bytes=16 * 1024 * 1024, output_count=10_000)
        self._kept: deque[link.Event] = deque()
        self._sent = 0  # number up to which this connection has had them
        self._ends: dict[str, int] = {}  # execution -> number of its end, 0 before
        self._shown: dict[str, _Shown] = {}

    def take(self, execution_id: str) -> bool:
        """Whether this id is new; from now on it is not."""
        if execution_id in self._shown:
            return False
        self._ends[execution_id] = 0
        self._shown[execution_id] = _Shown()
        return True

    def held(self) -> list[str]:
        """Executions whose end is not acknowledged."""
        return list(self._ends)

    def ended(self, execution_id: str) -> bool:
        """Whether this execution came and is over."""
        return execution_id in self._shown and self._ends.get(execution_id, 1) > 0

    def add(self, execution_id: str, event: link.Event) -> None:
        """Numbers and keeps an event."""
        self.last_number += 1
        event.number = self.last_number
        event.execution_id = execution_id
        self._kept.append(event)
        if event.WhichOneof("event") == "ended":
            self._ends[execution_id] = event.number

    def show(self, execution_id: str, event: link.Event) -> None:
        """Adds what a cell showed; past its limit it is discarded, and that said once."""
        shown = self._shown[execution_id]
        if shown.saturated:
            return
        if event.WhichOneof("event") in ("output", "display_updated"):
            stream = event.output.stream.name
            size, new = event.ByteSize(), int(not stream or stream != shown.stream)
            if shown.size + size > self.limits.output_bytes or shown.count + new > self.limits.output_count:
                shown.saturated = True
                notice = f"[cellyard: output truncated after {shown.size} bytes]\n"
                stream_output = outputs.StreamOutput(name="stdout", text=notice)
                self.add(execution_id, link.Event(output=outputs.Output(stream=stream_output)))
                self.add(execution_id, link.Event(truncated=link.Truncated(after_bytes=shown.size)))
                return
            shown.size, shown.count, shown.stream = shown.size + size, shown.count + new, stream
        self.add(execution_id, event)

    def acknowledge(self, number: int) -> None:
        """Forgets events up to this number, and the executions that ended there."""
        while self._kept and self._kept[0].number <= number:
            self._kept.popleft()
        self._ends = {name: end for name, end in self._ends.items() if not 0 < end <= number}

    def rewind(self, committed: int) -> None:
        """A new connection: what is not committed is sent again."""
        self.acknowledge(committed)
        self._sent = committed

    def batches(self) -> list[link.Batch]:
        """What this connection has not had yet."""
        fresh = [event for event in self._kept if event.number > self._sent]
        self._sent = self.last_number
        return [link.Batch(events=fresh[start : start + _BATCH]) for start in range(0, len(fresh), _BATCH)]
