"""What `codemode.Session.run` gives back."""

from __future__ import annotations

import dataclasses
import re

from cellyard import results
from cellyard.results import End

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclasses.dataclass(frozen=True, repr=False)
class ExecutionResult(results.ExecutionResult):
    """One run. It never raises: how it failed is in `error`."""

    timeout_s: float | None = None
    """Seconds that it was given; None for no limit."""
    failure: str | None = None
    """Why it could not even run."""

    @classmethod
    def of(cls, result: results.ExecutionResult, timeout_s: float | None) -> ExecutionResult:
        """The same run."""
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(results.ExecutionResult)}
        return cls(**fields, timeout_s=timeout_s)

    @classmethod
    def failed(cls, why: str) -> ExecutionResult:
        """Of code that was never run."""
        return cls(cell_id="", execution_id="", end=End.CANCELLED, failure=why)

    @property
    def error(self) -> str | None:  # type: ignore[override]
        """What went wrong, as text without colours; None where nothing did."""
        if self.failure is not None:
            return self.failure
        said = []
        output = results.ExecutionResult.error.fget(self)  # type: ignore[attr-defined]
        if self.end is End.TIMED_OUT:
            said.append(f"Execution timed out after {self.timeout_s:g}s and was stopped.")
        elif output is not None:
            said.append("\n".join(output.traceback or ()) or f"{output.ename}: {output.evalue}")
        elif self.end is not None and self.end is not End.SUCCEEDED:
            said.append(self.end_message or f"the run was {self.end}: {self.end_reason or 'no reason is known'}")
        if self.end_reason == "kernel_restarted":
            said.append("The kernel had to be restarted: variables are gone.")
        return _ANSI.sub("", "\n".join(said)).rstrip() or None

    @property
    def execution_time_ms(self) -> float | None:
        """Milliseconds from start to end; None where it never ran."""
        return None if self.duration is None else self.duration * 1000
