"""`cellyard run`: code or a whole notebook in a sandbox, output as it comes."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellyard.cli import completing, outcome, sources
from cellyard.cli.options import (
    Endpoint,
    EnvSource,
    Kernel,
    Network,
    Python,
    Require,
    Runtime,
    Template,
    Token,
)
from cellyard.cli.showing import Shown

if TYPE_CHECKING:
    from cellyard import ExecutionResult, Session

KERNELS = ("python", "deno")


def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .py file, a notebook (.ipynb), or - for stdin.")],
    notebook: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Run in this notebook, and keep it.", autocompletion=completing.notebooks),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the executed notebook here.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="At most so long for each cell.")] = None,
    env_source: EnvSource = "auto",
    kernel: Kernel = None,
    template: Template = None,
    python: Python = None,
    network: Network = None,
    runtime: Runtime = None,
    require: Require = None,
    allow_errors: Annotated[bool, typer.Option("--allow-errors", help="Go on after errors and timeouts.")] = False,
    files: Annotated[
        list[Path] | None, typer.Option(metavar="PATH...", help="Files for the kernel's home; several.")
    ] = None,
    no_files: Annotated[bool, typer.Option("--no-files", help="Send no files along.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line, the last of type result.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what happens: steps, capabilities, timings.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show no progress, and not which files go along.")
    ] = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Runs code or a whole notebook in a sandbox.

    What cells print goes to stdout as it comes, all text of our own to stderr; there a terminal shows how far it is,
    too. It stops at the first error or timeout, unless --allow-errors. Of a notebook the values of last expressions
    are printed too; cells tagged skip-execution are left out, and those tagged raises-exception may fail. The kernel
    is the one that the notebook asks for, unless --kernel names another.

    Plain files beside a notebook go along into the kernel's home, as far as they fit into 10 MiB: --files chooses
    others, --no-files none. The notebook that is made for the run is removed at its end, unless --notebook names one.
    """
    from cellyard import Session

    shown = Shown(as_json=as_json, verbose=verbose, quiet=quiet)
    with shown.result_at_the_end(), outcome.sentences():
        source = sources.read(file)
        shown.results = source.notebook is not None
        if out is not None:
            _check_out(out, source)
        kernel_type = kernel or source.kernel or "python"
        if kernel_type not in KERNELS:
            outcome.end(
                outcome.USAGE,
                f"unsupported kernel {kernel_type!r}: {' and '.join(KERNELS)} are there; --kernel chooses one of them",
            )
        if files:
            source.files = sources.chosen(files)
        elif source.notebook is not None and not no_files and file != "-":
            source.files = sources.beside(Path(file), out, tell=not quiet)
        session = Session(
            notebook or f"cellyard-run-{uuid.uuid4()}",
            endpoint=endpoint,
            token=token,
            runtime=runtime,
            template=template,
            python_version=python,
            network=network,
            require=require or (),
            files=source.files,
            on_progress=shown.progress,
        )
        run = _Run(session, source, shown, timeout=timeout, allow_errors=allow_errors)
        try:
            with shown.how_far():
                code = run.all(kernel_type, env_source)
        finally:
            try:
                if out is not None and run.started:
                    run.write(out)
            finally:
                run.leave(keep=notebook is not None, endpoint=endpoint, token=token)
        raise typer.Exit(code)


def _check_out(out: Path, source: sources.Source) -> None:
    """That the executed notebook can be written is to be known before anything runs."""
    if source.notebook is None:
        outcome.end(outcome.USAGE, "--out writes an executed notebook, and this is none")
    target = out if out.exists() else out.absolute().parent
    if out.is_dir() or not os.access(target, os.W_OK):
        outcome.end(outcome.USAGE, f"{out} cannot be written: choose another place for --out")


class _Run:
    """One command's run: its cells, and what came of them."""

    def __init__(
        self,
        session: Session,
        source: sources.Source,
        shown: Shown,
        *,
        timeout: float | None,
        allow_errors: bool,
    ) -> None:
        self.started = False
        self._session, self._source, self._shown = session, source, shown
        self._timeout, self._allow_errors = timeout, allow_errors
        self._cells: dict[str, Any] = {}  # the notebook's cells by the ids that they run under
        self._code = outcome.DONE

    def all(self, kernel_type: str, env_source: str) -> int:
        """Runs every part until one fails; returns the exit code."""
        begun = time.monotonic()
        self._session.start_kernel(kernel_type, env_source)
        self.started = True
        ready = time.monotonic()
        self._shown.capabilities(self._session)
        for place, part in enumerate(self._source.parts, start=1):
            result = self._one(part, place)
            code = code_of(result)
            if code != outcome.DONE and not part.may_raise and not self._allow_errors:
                self._code = code
                break
        self._shown.ended(ready - begun, time.monotonic() - ready)
        return self._code

    def write(self, out: Path) -> None:
        """Writes the notebook as it was executed. Cells that did not run have no output."""
        import nbformat

        last = {cell.id: cell for cell in self._session.get_cells()}
        for part in self._source.parts:
            part.cell.outputs, part.cell.execution_count = [], None
        for cell_id, cell in self._cells.items():
            executed = last[cell_id]
            cell.outputs = [nbformat.from_dict(output.to_nbformat()) for output in executed.outputs]
            cell.execution_count = executed.execution_count
        try:
            nbformat.write(self._source.notebook, out)
        except OSError as error:
            outcome.end(outcome.USAGE, f"{out} cannot be written: {error.strerror}")

    def leave(self, *, keep: bool, endpoint: str | None, token: str | None) -> None:
        """Ends the session; a notebook that was made for this run goes with it."""
        from cellyard import CellyardError, Client

        used = self._session.is_connected
        self._session.close()
        if used and not keep:
            try:
                with Client(endpoint, token) as client:
                    client.delete_notebook(self._session.notebook_id)
            except CellyardError as error:
                outcome.say(f"the notebook {self._session.notebook_id} is left behind: {error}")

    def _one(self, part: sources.Part, place: int) -> ExecutionResult:
        from cellyard import Finished, OutputEvent, Progress, Queued, Started

        self._shown.begins(part, place, len(self._source.parts))
        events = self._session.stream_execute(code=part.source, timeout_secs=self._timeout, on_cancel="interrupt")
        for event in events:
            if isinstance(event, Started | Queued) and part.cell is not None:
                self._cells[event.cell_id] = part.cell
            if isinstance(event, OutputEvent):
                self._shown.output(part, event.output)
            elif isinstance(event, Progress):
                self._shown.progress(event)
            elif isinstance(event, Finished):
                if part.cell is not None:
                    self._cells[event.result.cell_id] = part.cell
                self._shown.finished(part, event.result, self._timeout)
                return event.result
        raise AssertionError("a stream of events ends with Finished")


def code_of(result: ExecutionResult) -> int:
    """The exit code that an execution's end means."""
    if result.success:
        return outcome.DONE
    return outcome.TIMED_OUT if result.end == "timed_out" else outcome.CODE_FAILED
