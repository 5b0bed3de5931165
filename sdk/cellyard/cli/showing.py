"""What `cellyard run` prints: output as it comes, or one JSON event a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from cellyard.cli.outcome import say

if TYPE_CHECKING:
    from cellyard import ExecutionResult, Output, Progress, Session
    from cellyard.cli.sources import Part


class Shown:
    """Where a run's output goes."""

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self.results = False
        """Values of last expressions are printed too, as in a notebook."""
        self._json, self._verbose = as_json, verbose
        self._last_stage = ""
        self._times: dict[str, float] = {}

    @contextmanager
    def result_at_the_end(self) -> Iterator[None]:
        """With --json the last line is of type result, however the command ends."""
        try:
            yield
        except typer.Exit as ended:
            if self._json:
                self._event("result", exit_code=ended.exit_code, **self._times)
            raise

    def progress(self, progress: Progress) -> None:
        """A step of the kernel's start."""
        if self._json:
            self._event("progress", stage=progress.stage, message=progress.message)
        elif self._verbose and progress.message != self._last_stage:
            say(f"{progress.message} ...")
        self._last_stage = progress.message

    def capabilities(self, session: Session) -> None:
        """What the sandbox was proven to be."""
        if not (self._json or self._verbose):
            return
        for capability in session.capabilities():
            if self._json:
                self._event(
                    "capability", name=capability.name, granted=capability.granted, evidence=capability.evidence
                )
            else:
                say(f"{'proven' if capability.granted else 'NOT':<7}{capability.name}: {capability.evidence}")

    def begins(self, part: Part, count: int) -> None:
        """A cell is next."""
        if self._json:
            self._event("cell", cell=part.number)
        elif self._verbose and part.cell is not None:
            first = part.source.strip().splitlines()[0]
            say(f"cell {part.number} ({count} to run): {first[:80]}")

    def output(self, part: Part, output: Output) -> None:
        """Something was shown."""
        if self._json:
            self._event("output", cell=part.number, output=output.to_nbformat())
        elif output.output_type == "stream":
            target = sys.stderr if output.name == "stderr" else sys.stdout
            target.write(output.text or "")
            target.flush()
        elif output.output_type == "error":
            print("\n".join(output.traceback or []) or str(output), file=sys.stderr)
        elif self.results:
            print(str(output), flush=True)

    def finished(self, part: Part, result: ExecutionResult, timeout: float | None) -> None:
        """A cell has ended."""
        if self._json:
            self._event(
                "finished",
                cell=part.number,
                end=result.end,
                end_reason=result.end_reason,
                end_message=result.end_message,
                execution_count=result.execution_count,
                duration=result.duration,
            )
        elif result.end == "timed_out":
            say(f"cell {part.number} timed out after {timeout:g} s")
        elif not result.success and result.error is None:
            say(f"cell {part.number} {result.end}: {result.end_message or result.end_reason or 'no reason given'}")
        elif result.end == "lost" and result.error is not None:
            say(f"cell {part.number} lost: {result.error.evalue}")

    def ended(self, start_s: float, run_s: float) -> None:
        """All has run that was to run."""
        self._times = {"start_s": round(start_s, 3), "run_s": round(run_s, 3)}
        if self._verbose and not self._json:
            say(f"kernel ready after {start_s:.2f} s, ran for {run_s:.2f} s")

    def _event(self, kind: str, **fields: Any) -> None:
        print(json.dumps({"type": kind, **fields}, default=str), flush=True)
