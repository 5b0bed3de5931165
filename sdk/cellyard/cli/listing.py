"""What is there: notebooks, executions, sandboxes."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cellyard.cli import outcome, sources
from cellyard.cli.options import AsJson, Endpoint, Token

notebooks = typer.Typer(no_args_is_help=True, help="Notebooks that the controller keeps.")
executions = typer.Typer(no_args_is_help=True, help="Runs of a notebook's cells.")
sandboxes = typer.Typer(no_args_is_help=True, help="The places where kernels run.")
pool = typer.Typer(no_args_is_help=True, help="Warm sandboxes that wait for a notebook.")

Notebook = Annotated[str, typer.Option("--notebook", help="The notebook's id.")]


@notebooks.command("list")
def list_notebooks(
    endpoint: Endpoint = None,
    token: Token = None,
    as_json: AsJson = False,
    label: Annotated[list[str] | None, typer.Option(help="Only with this label: KEY=VALUE, or KEY; several.")] = None,
) -> None:
    """The notebooks, by id."""
    from cellyard import Client, NotebookInfo

    wanted = {key: value if equals else None for key, equals, value in (each.partition("=") for each in label or [])}
    with outcome.sentences(), Client(endpoint, token) as client:
        found: list[NotebookInfo] = []
        while page := client.list_notebooks(after=found[-1].notebook_id if found else None, labels=wanted):
            found += page
    _show(found, ["notebook_id", "changed_at", "labels"], as_json)


@notebooks.command("label")
def label_notebook(
    notebook_id: str,
    changes: Annotated[list[str], typer.Argument(help="KEY=VALUE to set, KEY= to remove.")],
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Sets and removes labels of a notebook."""
    from cellyard import Client

    pairs = {key: value for key, _, value in (each.partition("=") for each in changes)}
    removed = [key for key, value in pairs.items() if not value]
    with outcome.sentences(), Client(endpoint, token) as client:
        client.set_labels(notebook_id, {key: value for key, value in pairs.items() if value}, remove=removed)


@notebooks.command("show")
def show_notebook(notebook_id: str, endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """A notebook's cells with their outputs."""
    from cellyard import Session

    with outcome.sentences():
        must_exist(notebook_id, endpoint, token)
        session = Session(notebook_id, endpoint=endpoint, token=token)
        try:
            session.connect()
            cells = session.get_cells()
        finally:
            session.close()
    if as_json:
        typer.echo(json.dumps([_plain(cell) for cell in cells], indent=2, default=str))
        return
    for cell in cells:
        typer.echo(f"[{cell.execution_count or ' '}] {cell.id} ({cell.cell_type})")
        typer.echo(cell.source)
        for output in cell.outputs:
            typer.echo(str(output))
        typer.echo()


@notebooks.command("export")
def export_notebook(notebook_id: str, file: Path, endpoint: Endpoint = None, token: Token = None) -> None:
    """Writes a notebook with its outputs as an .ipynb file."""
    from cellyard import Session

    with outcome.sentences():
        must_exist(notebook_id, endpoint, token)
        session = Session(notebook_id, endpoint=endpoint, token=token)
        try:
            text = session.export_notebook()
        finally:
            session.close()
    try:
        file.write_text(text)
    except OSError as error:
        outcome.end(outcome.USAGE, f"{file} cannot be written: {error.strerror}")


@notebooks.command("import")
def import_notebook(notebook_id: str, file: Path, endpoint: Endpoint = None, token: Token = None) -> None:
    """Puts an .ipynb file into a notebook that has no cells."""
    from cellyard import Session

    source = sources.read(str(file))
    if source.notebook is None:
        outcome.end(outcome.USAGE, f"{file} is no notebook (.ipynb)")
    import nbformat

    with outcome.sentences():
        session = Session(notebook_id, endpoint=endpoint, token=token)
        try:
            session.import_notebook(nbformat.writes(source.notebook))
        finally:
            session.close()


def must_exist(notebook_id: str, endpoint: str | None, token: str | None) -> None:
    """A session would make the notebook; whoever asks for one means one that is there. Raises NotebookNotFound."""
    from cellyard import Client

    with Client(endpoint, token) as client:
        client.list_executions(notebook_id, 1)


@notebooks.command("delete")
def delete_notebook(notebook_id: str, endpoint: Endpoint = None, token: Token = None) -> None:
    """Ends a notebook's kernel and removes its document, executions and outputs."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        client.delete_notebook(notebook_id)


@executions.command("list")
def list_executions(
    notebook: Notebook, endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False, limit: int = 100
) -> None:
    """A notebook's executions, newest first."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_executions(notebook, limit)
    _show(found, ["execution_id", "status", "cell_id", "accepted_at"], as_json)


@executions.command("show")
def show_execution(
    execution_id: str, notebook: Notebook, endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False
) -> None:
    """One execution with its output."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.get_execution(notebook, execution_id)
    if as_json:
        shown = _plain(found)
        shown["outputs"] = [output.to_nbformat() for output in found.outputs]
        typer.echo(json.dumps(shown, indent=2, default=str))
    else:
        typer.echo(f"{found.execution_id}  {found.status}  {found.end_message or found.end_reason or ''}".rstrip())
        typer.echo(found.text)


@executions.command("cancel")
def cancel_execution(execution_id: str, notebook: Notebook, endpoint: Endpoint = None, token: Token = None) -> None:
    """Ends one execution: a waiting one is cancelled, a running one interrupted."""
    from cellyard import Session

    with outcome.sentences():
        session = Session(notebook, endpoint=endpoint, token=token)
        try:
            session.cancel(execution_id)
        finally:
            session.close()


@sandboxes.command("list")
def list_sandboxes(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """The sandboxes, oldest first."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_sandboxes()
    _show(found, ["sandbox_id", "state", "tenant", "notebook_id", "template", "age_s"], as_json)


@sandboxes.command("watch")
def watch_sandboxes(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """The sandboxes, and each one again whenever it has changed; one a line, until interrupted."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        for found in client.watch_sandboxes():
            if as_json:
                typer.echo(json.dumps(_plain(found), default=str))
            else:
                columns = ("sandbox_id", "state", "tenant", "notebook_id", "template", "end_reason")
                typer.echo("  ".join(_cell(getattr(found, column)) for column in columns))


@pool.command("status")
def pool_status(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """The pools of warm sandboxes: how many there are, and how many claims found one."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_pools()
    if as_json:
        _show(found, [], as_json)
        return
    for each in found:
        typer.echo(
            f"{each.template}  {each.kernel_type}  warm {each.warm} of {each.target}, making {each.making}, "
            f"claimed {each.claimed}; hits {each.hits}, misses {each.misses}, failures {each.failures}; "
            f"{each.claim_rate:.2f} claims/s, {each.lead_s:.1f} s to make one"
        )


@sandboxes.command("stop")
def stop_sandbox(sandbox_id: str, endpoint: Endpoint = None, token: Token = None) -> None:
    """Ends a sandbox and the kernel in it."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        client.stop_sandbox(sandbox_id)


def _show(found: list[Any], columns: list[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_plain(each) for each in found], indent=2, default=str))
        return
    for each in found:
        typer.echo("  ".join(_cell(getattr(each, column)) for column in columns))


def _plain(value: Any) -> dict[str, Any]:
    return {
        field.name: shown.isoformat() if isinstance(shown := getattr(value, field.name), datetime) else shown
        for field in dataclasses.fields(value)
        if field.name not in ("outputs", "value")
    }


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float):
        return f"{value:.1f} s"
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in value.items()) or "-"
    return "-" if value is None else str(value)
