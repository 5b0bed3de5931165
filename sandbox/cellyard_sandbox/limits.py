"""The limit of one execution's output: what passes, what is discarded, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox.messages import Chunk, Item, Shown, shown
from cellyard_sandbox.text import cut, size_of

MAX_EVENT = 24 * 1024 * 1024
"""Bytes of one event, at most, whatever the limits say: it must fit into a frame of the link."""

_KEPT_DISPLAYS = 100
_KEPT_BYTES = 4 * 1024 * 1024
_ERROR_LINE = 64 * 1024
_ERROR_LINES = 200


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """How much one execution may show."""

    max_bytes: int = 16 * 1024 * 1024
    max_count: int = 10_000
    """Outputs as a notebook has them: neighbouring chunks of one stream are one."""


class Budget:
    """What one execution has shown, against its limit."""

    def __init__(self, limits: OutputLimits) -> None:
        self._limits = limits
        self._bytes = 0
        self._count = 0
        self._stream = ""  # the name of the stream that was shown last, "" where something else was
        self._in_line = False  # and whether its text ended inside a line
        self._cleared = False
        self._error_passed = False
        self._displays: dict[str, Shown] = {}
        self.saturated = False
        """Past the limit; streams are discarded unread."""

    def admit(self, item: Item) -> list[Item]:
        """What to send for this item: itself, what is left of it, or nothing."""
        if self.saturated:
            return self._past_limit(item)
        if isinstance(item, Chunk):
            return self._chunk(item)
        kind = item.event.WhichOneof("event")
        if kind == "clear_output":
            return self._clear(item)
        if kind == "comm" and item.size <= MAX_EVENT and self._fits(item.size, 0):
            self._bytes += item.size  # no output: text before and after it is one
            return [item]
        if item.size > MAX_EVENT or not self._fits(item.size, 1):
            return [*self._overflow("stdout"), *self._past_limit(item)]
        self._spend(item.size, 1)
        self._stream = ""
        return [item]

    def close(self) -> list[Item]:
        """The last states of the displays that were updated past the limit; asked for at the end."""
        kept: list[Item] = list(self._displays.values())
        self._displays = {}
        return kept

    def _chunk(self, chunk: Chunk) -> list[Item]:
        new = int(self._stream != chunk.name)
        size = size_of(chunk.text)
        if self._fits(size, new):
            self._spend(size, new)
            self._stream = chunk.name
            self._in_line = not chunk.text.endswith("\n")
            return [chunk]
        if not self._fits(0, new):
            return self._overflow(chunk.name)
        start = cut(chunk.text, self._limits.max_bytes - self._bytes)
        return [*(self._chunk(Chunk(chunk.name, start)) if start else ()), *self._overflow(chunk.name)]

    def _clear(self, item: Shown) -> list[Item]:
        if self._cleared:
            return []  # nothing to clear since the last one: a loop of them must cost nothing
        self._cleared = True
        self._stream = ""
        return [item]

    def _fits(self, size: int, count: int) -> bool:
        return self._bytes + size <= self._limits.max_bytes and self._count + count <= self._limits.max_count

    def _spend(self, size: int, count: int) -> None:
        self._bytes += size
        self._count += count
        self._cleared = False

    def _overflow(self, stream: str) -> list[Item]:
        self.saturated = True
        line = f"[cellyard: output truncated after {self._bytes} bytes]\n"
        if self._stream == stream and self._in_line:
            line = "\n" + line
        truncated = link_pb2.Event(truncated=link_pb2.Truncated(after_bytes=self._bytes))
        return [Chunk(stream, line), shown(truncated)]

    def _past_limit(self, item: Item) -> list[Item]:
        if isinstance(item, Chunk):
            return []
        kind = item.event.WhichOneof("event")
        if kind == "display_updated":
            self._keep(item)
        elif kind == "output" and item.event.output.HasField("error") and not self._error_passed:
            self._error_passed = True  # how the cell ended is worth more than the limit
            return [_short_error(item.event.output.error)]
        return []

    def _keep(self, item: Shown) -> None:
        display_id = item.event.display_updated.display_id
        self._displays.pop(display_id, None)
        self._displays[display_id] = item
        while len(self._displays) > _KEPT_DISPLAYS or sum(kept.size for kept in self._displays.values()) > _KEPT_BYTES:
            del self._displays[next(iter(self._displays))]


def _short_error(error: outputs_pb2.ErrorOutput) -> Shown:
    short = outputs_pb2.ErrorOutput(
        ename=cut(error.ename, 1024),
        evalue=cut(error.evalue, _ERROR_LINE),
        traceback=[cut(line, _ERROR_LINE) for line in error.traceback[:_ERROR_LINES]],
    )
    while short.ByteSize() > 4 * _ERROR_LINE and short.traceback:
        short.traceback.pop()
    return shown(link_pb2.Event(output=outputs_pb2.Output(error=short)))
