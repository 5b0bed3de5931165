"""What `run` gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from cellyard import results
from cellyard._display import shorten, without_ansi
from cellyard.results import End, Output

_RESTARTED = "kernel_restarted"


@dataclass(frozen=True, slots=True, repr=False)
class ExecutionResult(results.ExecutionResult):
    """One run of code. Whatever it did, and whatever limit it met, is in here; nothing of it is raised."""

    error: str | None = None  # type: ignore[assignment]
    """Why it did not succeed, without colours; None where it did. Of an exception the traceback, whose last line is
    its type and message. A timeout says "timed out after Ns"."""
    execution_time_ms: float | None = None
    """How long the code ran, None where it never did."""
    backend_info: dict[str, Any] = field(default_factory=dict)
    """What ran it: `backend` ("container", "subprocess", "inprocess") and, of a kernel, what is known of it."""

    @property
    def is_ok(self) -> bool:
        """Whether it ran to its end without an error."""
        return self.error is None

    def __repr__(self) -> str:
        shown = f"value={shorten(repr(self.value))}, stdout={shorten(self.stdout)!r}"
        failed = "" if self.error is None else f", error={shorten(self.error.rpartition(chr(10))[2])!r}"
        return f"ExecutionResult({shown}{failed})"

    @classmethod
    def from_result(
        cls,
        result: results.ExecutionResult,
        *,
        timeout: float | None = None,
        backend_info: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """A kernel's result as code mode has it. `timeout`: what the run was given, in seconds."""
        given = {each.name: getattr(result, each.name) for each in fields(results.ExecutionResult)}
        ran = result.duration
        return cls(
            **given,
            error=_why(result, timeout),
            execution_time_ms=None if ran is None else ran * 1000,
            backend_info=dict(backend_info or {}),
        )

    @classmethod
    def of_run(
        cls,
        execution_id: str,
        *,
        end: End,
        stdout: str = "",
        stderr: str = "",
        value: Any = None,
        value_is_repr: bool = False,
        error: Failure | None = None,
        started_at: datetime | None = None,
        ended_at: datetime | None = None,
        execution_time_ms: float | None = None,
        source: str | None = None,
        backend_info: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """The result of code that ran without a kernel, or that never ran."""
        outputs = [
            Output("stream", name=name, text=text) for name, text in (("stdout", stdout), ("stderr", stderr)) if text
        ]
        if error is not None:
            lines = error.text.split("\n")
            outputs.append(Output("error", ename=error.name, evalue=error.message, traceback=lines))
        return cls(
            cell_id="",
            execution_id=execution_id,
            outputs=outputs,
            end=end,
            value=value,
            value_is_repr=value_is_repr,
            source=source,
            accepted_at=started_at,
            started_at=started_at,
            ended_at=ended_at,
            error=None if error is None else error.text,
            execution_time_ms=execution_time_ms,
            backend_info=dict(backend_info or {}),
        )

    @classmethod
    def refused(cls, why: str, *, source: str | None = None) -> ExecutionResult:
        """For code that never ran, because of this."""
        return cls(
            cell_id="", execution_id="", end=End.CANCELLED, end_message=why, source=source, error=why, backend_info={}
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """How code failed."""

    name: str
    """The exception's class."""
    message: str
    text: str
    """The traceback; its last line is name and message."""

    @classmethod
    def said(cls, name: str, message: str) -> Failure:
        """One that has no traceback."""
        return cls(name, message, f"{name}: {message}")


def timed_out(timeout: float | None) -> str:
    """A timeout in words."""
    return "timed out" if timeout is None else f"timed out after {timeout:g}s"


def _why(result: results.ExecutionResult, timeout: float | None) -> str | None:
    """A result's error as text."""
    restarted = (
        "; its kernel had to be restarted, and all variables are lost" if result.end_reason == _RESTARTED else ""
    )
    match result.end:
        case End.SUCCEEDED:
            return None
        case End.TIMED_OUT:
            return f"ExecutionTimeout: the code {timed_out(timeout)}{restarted}"
        case End.INTERRUPTED:
            return f"KeyboardInterrupt: the code was interrupted{restarted}"
        case End.CANCELLED:
            return f"the code never ran: {result.end_message or result.end_reason or 'it was cancelled'}"
        case None:
            return "the code still runs, or waits"
    error = result.error
    if error is None:
        return f"the code failed: {result.end_message or result.end_reason or 'it is not known why'}"
    text = without_ansi("\n".join(error.traceback or ())).strip("\n")
    last = without_ansi(f"{error.ename}: {error.evalue}").strip()
    if error.ename and f"{error.ename}:" not in text.rpartition("\n")[2] and not text.endswith(last):
        text = f"{text}\n{last}".strip("\n")  # a traceback that does not end in what happened
    return text + restarted
