"""What `cellyard run` prints: output as it comes, or one JSON event a line; on a terminal how far it is, too."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from cellyard._display import without_ansi
from cellyard.cli import outcome, status_line
from cellyard.cli.printing import coloured, visible

if TYPE_CHECKING:
    from cellyard import ExecutionResult, Output, Progress, Session
    from cellyard.cli.sources import Part


class Shown:
    """Where a run's output goes."""

    def __init__(self, *, as_json: bool, verbose: bool = False, quiet: bool = False, results: bool = False) -> None:
        self.results = results
        """Values of last expressions are printed too, as in a notebook."""
        self._json, self._verbose = as_json, verbose
        self._last_stage = ""
        self._times: dict[str, float] = {}
        self._line = status_line.StatusLine(wanted=not (as_json or quiet))
        self._within_a_line = False
        self._doing = ""
        self._since = 0.0

    @contextmanager
    def result_at_the_end(self) -> Iterator[None]:
        """With --json the last line is of type result, however the command ends."""
        try:
            yield
        except typer.Exit as ended:
            if self._json:
                self._event("result", exit_code=ended.exit_code, **self._times)
            raise

    @contextmanager
    def how_far(self) -> Iterator[None]:
        """Meanwhile a terminal shows how far it is."""
        with self._line:
            yield

    def progress(self, progress: Progress) -> None:
        """A step of the kernel's start."""
        if self._json:
            self._event("progress", stage=progress.stage, message=progress.message, fraction=progress.fraction)
            return
        if self._verbose and progress.message != self._last_stage:
            self._say(f"{progress.message} ...")
        if progress.message != self._last_stage:
            self._since = time.monotonic()
        self._last_stage = progress.message
        begun = self._since
        filled = "" if progress.fraction is None else f"  {status_line.bar(progress.fraction)} {progress.fraction:.0%}"
        self._line.show(lambda: f"{self._doing}{progress.message}{filled}  {status_line.since(begun)}")

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
                self._say(f"{'proven' if capability.granted else 'NOT':<7}{capability.name}: {capability.evidence}")

    def begins(self, part: Part, place: int, count: int) -> None:
        """A cell is next, the one at `place` of `count`."""
        if self._json:
            self._event("cell", cell=part.number)
            return
        first = part.source.strip().splitlines()[0] if part.source.strip() else ""
        if self._verbose and part.cell is not None:
            self._say(f"cell {part.number} ({count} to run): {visible(first[:80])}")
        begun = time.monotonic()
        self._doing = f"cell {place} of {count}  " if part.cell is not None else ""
        drawn = f"{status_line.bar((place - 1) / count)}  " if count > 1 else ""
        self._line.show(lambda: f"{self._doing}{drawn}{status_line.since(begun)}  {first}")

    def output(self, part: Part, output: Output) -> None:
        """Something was shown."""
        if self._json:
            self._event("output", cell=part.number, output=output.to_nbformat())
        elif output.output_type == "stream":
            if output.name != "stderr" and output.text:
                self._within_a_line = not output.text.endswith("\n")
            self._line.write(sys.stderr if output.name == "stderr" else sys.stdout, output.text or "")
        elif output.output_type == "error":
            text = "\n".join(output.traceback or []) or str(output).rstrip("\n")
            self._line.write(sys.stderr, (text if coloured(sys.stderr) else without_ansi(text)) + "\n")
        elif self.results:
            begin = "\n" if self._within_a_line else ""
            self._within_a_line = False
            self._line.write(sys.stdout, f"{begin}{output}")

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
            self._say(f"cell {part.number} timed out" + (f" after {timeout:g} s" if timeout is not None else ""))
        elif not result.success and result.error is None:
            why = result.end_message or result.end_reason or "no reason given"
            self._say(f"cell {part.number} {result.end}: {why}")
        elif result.end == "lost" and result.error is not None:
            self._say(f"cell {part.number} lost: {result.error.evalue}")

    def ended(self, start_s: float, run_s: float) -> None:
        """All has run that was to run."""
        self._times = {"start_s": round(start_s, 3), "run_s": round(run_s, 3)}
        if self._verbose and not self._json:
            self._say(f"kernel ready after {start_s:.2f} s, ran for {run_s:.2f} s")

    def _say(self, message: str) -> None:
        self._line.write(sys.stderr, outcome.sentence(message))

    def _event(self, kind: str, **fields: Any) -> None:
        print(json.dumps({"type": kind, **fields}, default=str), flush=True)
