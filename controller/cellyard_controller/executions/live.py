"""An execution in memory: its outputs as they come, the events that are not committed yet, and who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cellyard_controller.clock import steady
from cellyard_controller.executions.calls import Answer, Calls
from cellyard_controller.executions.log import EventLog, Fetch, Hear
from cellyard_controller.executions.model import End, Event, Execution, State
from cellyard_controller.executions.parts import Parts
from cellyard_controller.executions.reports import (
    Asked,
    Called,
    Clear,
    Ended,
    Output,
    Started,
    Truncated,
    Update,
    Warned,
)
from cellyard_proto import amounts
from cellyard_proto.outputs import OutputFold
from cellyard_proto.stream_text import StreamText

_SLACK_BYTES = 1024 * 1024
_SLACK_OUTPUTS = 1000
_MAX_WARNINGS = 100
_SHOWN = frozenset(("output", "display_updated"))
"""Events that show something."""


def finished_body(execution: Execution) -> dict[str, Any]:
    """The body of an ended execution's `finished` event."""
    return {
        "end": execution.end,
        "end_reason": execution.end_reason,
        "end_message": execution.end_message,
        "ended_at": execution.ended_at,
        "execution_count": execution.execution_count,
        "value": [execution.value.json, execution.value.is_repr] if execution.value else None,
        "usage": [execution.usage.cpu_s, execution.usage.peak_memory_bytes, execution.usage.wall_s],
        "reply": execution.reply,
    }


class LiveExecution:
    """One execution that is being worked on.

    The agent keeps the limits of output; the same limits with some slack are enforced here, because an agent may
    lie. What is discarded here is announced in the output.
    """

    def __init__(
        self,
        execution: Execution,
        fetch: Fetch,
        *,
        text: Callable[[], StreamText] = StreamText,
        max_bytes: int,
        max_outputs: int,
        hear: Hear | None = None,
    ) -> None:
        """`text`: makes what holds the text of a stream."""
        self.execution = execution
        self.running_since = steady() if execution.started_at else 0.0
        """When it was started, by the steady clock, or when this controller came to know of that; 0 before."""
        self.pending: list[Event] = []
        self.sizes: list[int] = []
        self._between: list[tuple[int, Callable[[], None]]] = []
        self.calls = Calls(execution.offers)
        self.log = EventLog(execution.last_seq, fetch, finished=execution.state is State.ENDED, hear=hear)
        self._fold = OutputFold(execution.outputs, text=text)
        # What has ended is shown as it is stored, until it goes on: folding may change outputs that ran elsewhere.
        self._as_stored = execution.state is State.ENDED
        self._last_seq = execution.last_seq
        self._max_bytes, self._max_outputs = max_bytes, max_outputs
        self._bytes_left = max_bytes + _SLACK_BYTES
        self._outputs_left = max_outputs + _SLACK_OUTPUTS
        self._cut = False
        self._warnings = 0
        self._shown = execution.usage.output_bytes

    @property
    def pending_size(self) -> int:
        """Characters of what waits to be committed."""
        return sum(self.sizes)

    def started(self, report: Started) -> None:
        """The kernel has taken it up."""
        now = max(time.time(), self.execution.accepted_at)
        self.running_since = steady()
        self.execution = replace(
            self.execution, state=State.STARTED, started_at=now, execution_count=report.execution_count
        )
        self._add("started", {"execution_count": report.execution_count, "started_at": now})

    def output(self, report: Output | Clear | Truncated, size: int) -> None:
        """It has shown something."""
        if isinstance(report, Truncated):
            self._tell_cut()
        elif isinstance(report, Clear):
            self._fold.clear(wait=report.wait)
            self._add("clear_output", {"wait": report.wait})
        elif self._within_limits(size, new=not self._fold.joins(report.output)):
            self._fold.append(report.output)
            self._add("output", report.output, size)

    def update_display(self, report: Update, size: int) -> bool:
        """Something that it displays was replaced, by itself or by another cell; False where it displays none."""
        if report.display_id not in self._fold.display_ids() or not self._within_limits(size, new=False):
            return False
        self._fold.update_display(report.display_id, report.data, report.metadata)
        body = {"display_id": report.display_id, "data": report.data, "metadata": report.metadata}
        self._add("display_updated", body, size)
        return True

    def called(self, report: Called | Asked) -> bool:
        """Its code waits for its client's answer; False for a call that is known."""
        body: dict[str, Any]
        if isinstance(report, Called):
            kind, size = "host_call", len(report.args) + len(report.kwargs)
            body = {"call_id": report.call_id, "name": report.name, "args": report.args, "kwargs": report.kwargs}
        else:
            kind, size = "input_requested", len(report.prompt)
            body = {"call_id": report.call_id, "prompt": report.prompt, "password": report.password}
        if not self.calls.came(report.call_id, body):
            return False
        self._add(kind, body, size)
        return True

    def warned(self, report: Warned) -> None:
        """Its sandbox, or what stands before it, has something to say."""
        if self._warnings < _MAX_WARNINGS:
            self._warnings += 1
            body = {"kind": report.kind, "message": report.message, "details": dict(report.details)}
            self._add("warning", body, len(report.message))

    def answer(self, call_id: str, answer: Answer | None, request_id: str = "") -> None:
        """The end of an open call; None where the code waits no more."""
        self.calls.end(call_id, request_id)
        body = {"call_id": call_id, "request_id": request_id, "answer": answer.body() if answer else None}
        self._add("call_ended", body, len(answer.content) if answer else 64)

    def finish(self, end: End, reason: str, message: str, report: Ended | None = None) -> None:
        """Its one end."""
        if self.execution.state is State.ENDED:
            raise RuntimeError(f"{self.execution.execution_id} has ended already")
        if end is End.LOST:
            lost = {
                "output_type": "error",
                "ename": "KernelDied",
                "evalue": message or reason,
                "traceback": [f"KernelDied: {message or reason}"],
            }
            self._fold.append(lost)
            self._add("output", lost)
        for call_id in list(self.calls.open):
            self.answer(call_id, None)
        now = max(time.time(), self.execution.accepted_at, self.execution.started_at)
        count = report.execution_count if report else 0
        self.execution = replace(
            self.execution,
            state=State.ENDED,
            end=end,
            end_reason=reason,
            end_message=message,
            ended_at=now,
            execution_count=count or self.execution.execution_count,
            value=report.value if report else None,
            usage=report.usage if report else self.execution.usage,
            reply=report.reply if report else "",
        )
        self._add("finished", finished_body(self.execution), 64 + len(self.execution.reply))

    @property
    def clear_waits(self) -> bool:
        """Whether its outputs go when the next one comes."""
        return self._fold.clear_waits

    def snapshot(self, *, with_outputs: bool = True, as_they_came: bool = False, in_files: bool = False) -> Execution:
        """The execution as it stands, what is not committed yet included.

        `as_they_came`: carriage returns and backspaces are not applied, so that more output can be joined.
        `in_files`: a stream's text that is in a file stays there, a SpooledText stands for it.
        """
        outputs: list[dict[str, Any]] = []
        if with_outputs:
            outputs = (
                self.execution.outputs
                if self._as_stored
                else self._fold.outputs(as_they_came=as_they_came, in_files=in_files)
            )
        usage = replace(self.execution.usage, output_bytes=self._shown)
        return replace(self.execution, last_seq=self._last_seq, outputs=outputs, usage=usage)

    def replay(self, events: Sequence[Event]) -> None:
        """Builds the outputs again from events that were committed before a restart."""
        for event in events:
            if event.kind == "output":
                self._fold.append(event.body)
            elif event.kind == "clear_output":
                self._fold.clear(wait=event.body["wait"])
            elif event.kind == "display_updated":
                body = event.body
                self._fold.update_display(body["display_id"], body["data"], body["metadata"])
            else:
                self.calls.replay(event.kind, event.body)

    def display_ids(self) -> set[str]:
        """Under which ids it displays something."""
        return self._fold.display_ids()

    def between(self, tell: Callable[[], None]) -> None:
        """Something is to be told at this place among its events, once those before it are shown."""
        self._between.append((self._last_seq, tell))

    @property
    def unpublished(self) -> bool:
        """Whether anything waits to be shown."""
        return bool(self.pending or self._between)

    def publish(self, committed: int, parts: Parts) -> None:
        """The first `committed` pending events are on disk, their large `parts` as files: show them."""
        parts.replace(self.sizes)
        if parts.streams:
            self._fold.keep_elsewhere(parts.streams)
        shown = 0
        between, self._between = self._between, []
        for after_seq, tell in between:
            upto = shown
            while upto < committed and self.pending[upto].seq <= after_seq:
                upto += 1
            self._show(shown, upto)
            shown = upto
            tell()
        self._show(shown, committed)
        del self.pending[:committed], self.sizes[:committed]

    def _show(self, first: int, end: int) -> None:
        if end > first:
            self.log.publish(self.pending[first:end], self.sizes[first:end])

    def _within_limits(self, size: int, *, new: bool) -> bool:
        self._bytes_left -= size
        self._outputs_left -= new
        if self._bytes_left >= 0 and self._outputs_left >= 0:
            return True
        if not self._cut:
            self._tell_cut()
            notice = {
                "output_type": "stream",
                "name": "stderr",
                "text": f"\n[cellyard: output truncated after {self._max_bytes} bytes]\n",
            }
            self._fold.append(notice)
            self._add("output", notice)
        return False

    def _tell_cut(self) -> None:
        if not self._cut:
            self._cut = True
            limits = f"{amounts.size(self._max_bytes)} and {self._max_outputs} outputs"
            details = {"limit_bytes": str(self._max_bytes), "limit_outputs": str(self._max_outputs)}
            self.warned(Warned("output", f"the output was cut: its limits are {limits}", details))

    def _add(self, kind: str, body: dict[str, Any], size: int = 64) -> None:
        self._as_stored = False
        self._last_seq += 1
        if kind in _SHOWN:
            self._shown += size
        self.pending.append(Event(self._last_seq, kind, body))
        self.sizes.append(size)
