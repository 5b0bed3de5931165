"""What calls give back: results, outputs, cells, capabilities. Frozen; nothing here talks to anybody."""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cellyard import _display
from cellyard_proto.outputs import NbOutput, is_json_type


class End(enum.StrEnum):
    """How an execution ended; exactly one of these, once."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The code raised; `ExecutionResult.error` has it."""
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    """It never ran."""
    LOST = "lost"
    """The kernel went away under it: it may have run, in part or whole, and is never sent again."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an execution used, as far as its sandbox can tell."""

    cpu_s: float
    """Processor time, in seconds."""
    peak_memory_bytes: int
    """The most that the sandbox used meanwhile."""
    wall_s: float
    """Seconds from start to end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of something that takes time, as `on_progress` gets it."""

    stage: str
    """A word for programs: "claim", "create", "start", ..."""
    message: str
    """A sentence for people."""
    fraction: float | None = None
    """From 0 to 1, where it is known."""
    seq: int = 0
    """Always 0: progress tells of this moment and is not kept."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One source that ran."""

    session: int
    """0 is the kernel's own life."""
    execution_count: int
    source: str
    output: str | None = None
    """Its value as text, where that was asked for and there is one."""


@dataclass(frozen=True, slots=True)
class Completeness:
    """How far code is that somebody types."""

    status: str
    """ "complete", "incomplete", "invalid" or "unknown"."""
    indent: str = ""
    """With "incomplete": what the next line begins with."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What could stand at a place in code."""

    matches: list[str]
    start: int
    """Each match replaces the code from here,"""
    end: int
    """to here, in characters."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """As Jupyter's complete_reply has it: types of the matches, for example."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Something that sandboxes have been shown to do, or not."""

    name: str
    granted: bool
    evidence: str
    """What a probe saw, or what is missing."""
    probed_at: datetime | None
    """When (UTC); None where it was not probed."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a cell, in the kinds of nbformat 4; what does not apply to a kind is None.

    `output_type` is "stream" (`name`, `text`), "display_data" and "execute_result" (`data`, `metadata`, the
    latter `execution_count`), or "error" (`ename`, `evalue`, `traceback`). `data` maps MIME types to str (text,
    SVG), bytes (images, audio, video, PDF) or objects (JSON types).
    """

    output_type: str
    name: str | None = None
    text: str | None = None
    data: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    ename: str | None = None
    evalue: str | None = None
    traceback: list[str] | None = None
    execution_count: int | None = None
    display_id: str | None = None
    """The id under which later code may update it."""

    @classmethod
    def from_nbformat(cls, output: NbOutput) -> Output:
        """An output from nbformat's dict."""
        kind = output["output_type"]
        if kind == "stream":
            return cls(kind, name=output["name"], text=output["text"])
        if kind == "error":
            return cls(kind, ename=output["ename"], evalue=output["evalue"], traceback=list(output["traceback"]))
        return cls(
            kind,
            data={mime: _from_mime(mime, value) for mime, value in output["data"].items()},
            metadata=dict(output.get("metadata", {})),
            execution_count=output.get("execution_count"),
            display_id=output.get("transient", {}).get("display_id"),
        )

    def to_nbformat(self) -> NbOutput:
        """The output as nbformat 4 saves it."""
        if self.output_type == "stream":
            return {"output_type": "stream", "name": self.name, "text": self.text}
        if self.output_type == "error":
            return {
                "output_type": "error",
                "ename": self.ename,
                "evalue": self.evalue,
                "traceback": list(self.traceback or ()),
            }
        output: NbOutput = {
            "output_type": self.output_type,
            "data": {mime: _to_mime(value) for mime, value in (self.data or {}).items()},
            "metadata": dict(self.metadata or {}),
        }
        if self.output_type == "execute_result":
            output["execution_count"] = self.execution_count
        return output

    def __str__(self) -> str:
        """What a person would want to read of it, without colours."""
        return _display.output_text(self)

    def __repr__(self) -> str:
        if self.output_type == "stream":
            return f"Output(stream, {self.name}: {_display.shorten(self.text or '')!r})"
        if self.output_type == "error":
            return f"Output(error, {self.ename}: {_display.shorten(self.evalue or '')})"
        return f"Output({self.output_type}, {sorted(self.data or ())})"

    def _repr_html_(self) -> str:
        return _display.output_html(self)


def _is_binary(mime: str) -> bool:
    if mime.startswith("image/"):
        return not mime.startswith("image/svg")
    return mime.startswith(("audio/", "video/")) or mime == "application/pdf"


def _from_mime(mime: str, value: Any) -> Any:
    if isinstance(value, str) and not is_json_type(mime) and _is_binary(mime):
        try:
            return base64.b64decode(value)
        except ValueError:
            return value  # no base64 after all: as the kernel sent it
    return value


def _to_mime(value: Any) -> Any:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the document, with the outputs of its last execution."""

    id: str
    cell_type: str
    """ "code", "markdown" or "raw"."""
    source: str
    execution_count: int | None = None
    outputs: list[Output] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    execution_id: str | None = None
    version: str = ""
    """Changes with the source; for `set_source(..., if_version=)`."""

    def __repr__(self) -> str:
        return f"Cell(id={self.id}, type={self.cell_type}, source={_display.shorten(self.source, 30)!r})"


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """One run of a cell: how it ended and what it showed. A user's exception is a result, not raised."""

    cell_id: str
    execution_id: str
    outputs: list[Output] = field(default_factory=list)
    execution_count: int | None = None
    end: End | None = None
    """None while it waits or runs."""
    end_reason: str | None = None
    """More about the end: "oom", "shutdown", "kernel_restarted", "start_timeout", ...; None where there is no more."""
    end_message: str | None = None
    """The reason in a sentence, where the controller gave one."""
    value: Any = None
    """The last expression's value as data: None, bool, int, float, complex, str, bytes, list, tuple, dict, set,
    datetime; of anything else its repr, and then `value_is_repr`."""
    value_is_repr: bool = False
    usage: Usage | None = None
    """None before its end, and where its sandbox could not tell."""
    source: str | None = None
    """What was to run."""
    accepted_at: datetime | None = None
    """When (UTC) it was on the controller's disk."""
    started_at: datetime | None = None
    """When (UTC) the kernel took it up; None where it never did."""
    ended_at: datetime | None = None
    reply: Mapping[str, Any] = field(default_factory=dict)
    """What `stream_execute` asked for besides: `user_expressions`, `payload`, as Jupyter's execute_reply has them."""

    @property
    def success(self) -> bool:
        """Whether it ran to its end without an error."""
        return self.end is End.SUCCEEDED

    @property
    def is_ok(self) -> bool:
        """The same as `success`."""
        return self.success

    @property
    def status(self) -> str:
        """`end`, and before that "queued" or "running"."""
        if self.end is not None:
            return self.end
        return "queued" if self.started_at is None else "running"

    @property
    def stdout(self) -> str:
        """What was printed; carriage returns and backspaces applied, everything else as it was."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """What was written to stderr."""
        return self._stream("stderr")

    @property
    def display_data(self) -> list[Output]:
        """The rich outputs: displays and the value of the last expression."""
        return [output for output in self.outputs if output.output_type in ("display_data", "execute_result")]

    @property
    def error(self) -> Output | None:
        """The exception that ended it, or None. When the kernel went away: `ename` "KernelDied"."""
        return self._error_output()

    def _error_output(self) -> Output | None:
        for output in self.outputs:
            if output.output_type == "error":
                return output
        if self.end is End.LOST:
            why = self.end_message or f"the kernel ended: {self.end_reason or 'unknown reason'}"
            return Output("error", ename="KernelDied", evalue=why, traceback=[f"KernelDied: {why}"])
        return None

    @property
    def duration(self) -> float | None:
        """Seconds from the start of the cell to its end; None before, and where it never ran."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())

    @property
    def text(self) -> str:
        """What a person would want to read: printed text, displays and errors in order, without colours."""
        return _display.result_text(self)

    def _stream(self, name: str) -> str:
        return "".join(
            output.text or "" for output in self.outputs if output.output_type == "stream" and output.name == name
        )

    def __repr__(self) -> str:
        text = _display.shorten(self.text.strip())
        shown = f", text={text!r}" if text else ""
        return f"ExecutionResult(cell={self.cell_id}, status={self.status}, outputs={len(self.outputs)}{shown})"

    def _repr_html_(self) -> str:
        return _display.result_html(self)
