"""`cellyard executions`: runs of a notebook's cells, those that are over and those that go on."""

from __future__ import annotations

from typing import Annotated

import typer

from cellyard.cli import outcome, printing
from cellyard.cli.listing import must_exist
from cellyard.cli.options import AsJson, Endpoint, ExecutionId, Notebook, Token

executions = typer.Typer(no_args_is_help=True, help="Runs of a notebook's cells.")


@executions.command("list")
def list_executions(
    notebook: Notebook,
    endpoint: Endpoint = None,
    token: Token = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most this many.")] = 100,
) -> None:
    """Lists a notebook's executions, newest first.

    Columns: id, status, cell, when it was accepted, how long it ran.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_executions(notebook, limit)
    if as_json:
        # They come without outputs and values: keys that are always empty would tell something else.
        left_out = ("outputs", "value", "value_is_repr")
        data = [printing.as_data(each) for each in found]
        printing.as_json([{key: each[key] for key in each if key not in left_out} | _status(each) for each in data])
        return
    rows = [
        (
            each.execution_id,
            each.status,
            each.cell_id,
            each.accepted_at,
            None if each.duration is None else printing.span(each.duration),
        )
        for each in found
    ]
    printing.table(("execution", "status", "cell", "accepted", "ran"), rows)


@executions.command("show")
def show_execution(
    execution_id: ExecutionId,
    notebook: Notebook,
    endpoint: Endpoint = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Shows one execution as it stands, with its output.

    Text is shown without colours; whatever else in it would do something to a terminal is written out.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.get_execution(notebook, execution_id)
    if as_json:
        data = printing.as_data(found)
        printing.as_json(data | _status(data))
        return
    why = found.end_message or found.end_reason or ""
    print(printing.visible(f"{found.execution_id}  {found.status}  {why}".rstrip()))
    print(printing.visible(found.text.rstrip("\n"), lines=True))


@executions.command("attach")
def attach_execution(
    execution_id: ExecutionId,
    notebook: Notebook,
    endpoint: Endpoint = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line, the last of type result.")] = False,
) -> None:
    """Follows an execution until it ends.

    It shows what was put out and what comes, as `run` does, and ends with the exit code that `run` would have. The
    output is the code's and passed through as it is. Ctrl-C ends the watching; the execution goes on.
    """
    from cellyard import Finished, OutputEvent, Session
    from cellyard.cli.running import code_of
    from cellyard.cli.showing import Shown
    from cellyard.cli.sources import Part

    shown = Shown(as_json=as_json, results=True)
    part = Part("", 1)
    with shown.result_at_the_end(), outcome.sentences():
        must_exist(notebook, endpoint, token)
        session = Session(notebook, endpoint=endpoint, token=token)
        code = outcome.DONE
        try:
            for event in session.follow(execution_id):
                if isinstance(event, OutputEvent):
                    shown.output(part, event.output)
                elif isinstance(event, Finished):
                    shown.finished(part, event.result, None)
                    code = code_of(event.result)
        finally:
            session.close()
        raise typer.Exit(code)


@executions.command("cancel")
def cancel_execution(
    execution_id: ExecutionId, notebook: Notebook, endpoint: Endpoint = None, token: Token = None
) -> None:
    """Ends one execution.

    A waiting one is cancelled, a running one interrupted; an ended one stays as it is.
    """
    from cellyard import Session

    with outcome.sentences():
        must_exist(notebook, endpoint, token)
        session = Session(notebook, endpoint=endpoint, token=token)
        try:
            session.cancel(execution_id)
        finally:
            session.close()


def _status(data: dict[str, object]) -> dict[str, object]:
    """The end, and before that how it stands; the same in both."""
    return {"status": data["end"] or ("running" if data["started_at"] else "queued")}
