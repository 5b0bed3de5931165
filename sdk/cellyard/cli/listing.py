"""What is there: notebooks, sandboxes, pools, nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellyard.cli import outcome, printing, sources
from cellyard.cli.options import AsJson, Endpoint, NodeName, NotebookId, SandboxId, Token

notebooks = typer.Typer(no_args_is_help=True, help="Notebooks that the controller keeps.")
sandboxes = typer.Typer(no_args_is_help=True, help="The places where kernels run.")
nodes = typer.Typer(no_args_is_help=True, help="The machines that share a store.")
pool = typer.Typer(no_args_is_help=True, help="Warm sandboxes that wait for a notebook.")


@notebooks.command("list")
def list_notebooks(
    endpoint: Endpoint = None,
    token: Token = None,
    as_json: AsJson = False,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Only with this label: KEY=VALUE, or KEY for any value; several."),
    ] = None,
) -> None:
    """Lists the notebooks, by id.

    Columns: id, when it changed, labels.
    """
    from cellyard import Client, NotebookInfo

    wanted = {key: value if equals else None for key, equals, value in (each.partition("=") for each in label or [])}
    with outcome.sentences(), Client(endpoint, token) as client:
        found: list[NotebookInfo] = []
        while page := client.list_notebooks(after=found[-1].notebook_id if found else None, labels=wanted):
            found += page
    if as_json:
        printing.as_json(found)
        return
    rows = [(each.notebook_id, each.changed_at, each.labels) for each in found]
    printing.table(("notebook", "changed", "labels"), rows)


@notebooks.command("label")
def label_notebook(
    notebook_id: NotebookId,
    changes: Annotated[list[str], typer.Argument(metavar="CHANGE...", help="KEY=VALUE to set, KEY= to remove.")],
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Sets and removes labels of a notebook; the others stay."""
    from cellyard import Client

    pairs = {key: value for key, _, value in (each.partition("=") for each in changes)}
    removed = [key for key, value in pairs.items() if not value]
    with outcome.sentences(), Client(endpoint, token) as client:
        client.set_labels(notebook_id, {key: value for key, value in pairs.items() if value}, remove=removed)


@notebooks.command("show")
def show_notebook(
    notebook_id: NotebookId, endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Shows a notebook's cells with their outputs.

    Text is shown without colours; whatever else in it would do something to a terminal is written out.
    """
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
        printing.as_json(cells)
        return
    for cell in cells:
        print(f"[{cell.execution_count or ' '}] {printing.visible(cell.id)} ({cell.cell_type})")
        print(printing.visible(cell.source.rstrip("\n"), lines=True))
        for output in cell.outputs:
            print(printing.visible(str(output).rstrip("\n"), lines=True))
        print()


@notebooks.command("export")
def export_notebook(
    notebook_id: NotebookId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; - for stdout.")],
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Writes a notebook with its outputs as an .ipynb file, nbformat 4."""
    from cellyard import Session

    with outcome.sentences():
        must_exist(notebook_id, endpoint, token)
        session = Session(notebook_id, endpoint=endpoint, token=token)
        try:
            text = session.export_notebook()
        finally:
            session.close()
    if str(file) == "-":
        print(text)
        return
    try:
        file.write_text(text)
    except OSError as error:
        outcome.end(outcome.USAGE, f"{file} cannot be written: {error.strerror}")


@notebooks.command("import")
def import_notebook(
    notebook_id: NotebookId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A notebook, .ipynb.")],
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Puts an .ipynb file into an empty notebook.

    The notebook is made where it does not exist; one that has cells is refused.
    """
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
def delete_notebook(notebook_id: NotebookId, endpoint: Endpoint = None, token: Token = None) -> None:
    """Removes a notebook, for good.

    Its kernel ends; its document, executions and outputs go.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        client.delete_notebook(notebook_id)


@sandboxes.command("list")
def list_sandboxes(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """Lists the sandboxes, oldest first.

    Columns: id, state, tenant, notebook, template, age, and the node where several share the store. A tenant sees its
    own, the operator all.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_sandboxes()
    if as_json:
        printing.as_json(found)
        return
    columns = ["sandbox", "state", "tenant", "notebook", "template", "age"]
    rows = [
        [each.sandbox_id, each.state, each.tenant, each.notebook_id, each.template, printing.span(each.age_s)]
        for each in found
    ]
    if any(each.node for each in found):
        columns.append("node")
        rows = [[*row, each.node] for row, each in zip(rows, found, strict=True)]
    printing.table(columns, rows)


@sandboxes.command("watch")
def watch_sandboxes(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """Follows the sandboxes, until interrupted.

    It shows those there are, and each one again whenever it has changed; one a line.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        for found in client.watch_sandboxes():
            if as_json:
                printing.as_line(found)
                continue
            columns = ("sandbox_id", "state", "tenant", "notebook_id", "template", "end_reason")
            print("  ".join(printing.visible(getattr(found, column) or "-") for column in columns), flush=True)


@sandboxes.command("stop")
def stop_sandbox(sandbox_id: SandboxId, endpoint: Endpoint = None, token: Token = None) -> None:
    """Ends a sandbox and the kernel in it.

    What ran ends `lost`, what waited is cancelled.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        if sandbox_id not in (each.sandbox_id for each in client.list_sandboxes()):
            # To the controller the end of what is not there is no error; to who mistyped an id it is.
            outcome.end(outcome.USAGE, f"there is no sandbox {sandbox_id!r}")
        client.stop_sandbox(sandbox_id)


@pool.command("status")
def pool_status(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """Shows the pools of warm sandboxes.

    How many there are, and how many claims found one. For the operator.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_pools()
    if as_json:
        printing.as_json(found)
        return
    columns = ("template", "kernel", "warm", "making", "claimed", "hits", "misses", "failures", "claims/s", "lead")
    rows = [
        (
            each.template,
            each.kernel_type,
            f"{each.warm}/{each.target}",
            each.making,
            each.claimed,
            each.hits,
            each.misses,
            each.failures,
            f"{each.claim_rate:.2f}",
            printing.span(each.lead_s),
        )
        for each in found
    ]
    printing.table(columns, rows)


@nodes.command("list")
def list_nodes(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """Lists the machines that share the controller's store.

    What each said with the last renewal of its lease; none where the controller keeps its store for itself. For the
    operator.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        found = client.list_nodes()
    if as_json:
        printing.as_json(found)
        return
    columns = ("node", "endpoint", "state", "lease", "notebooks", "sandboxes", "warm", "waiting")
    rows = [
        (
            f"{each.name} (this one)" if each.this_one else each.name,
            each.endpoint,
            f"{each.state}, failing" if each.failing else each.state,
            printing.span(each.lease_left_s),
            each.notebooks,
            f"{each.sandboxes}/{each.sandboxes_max}",
            each.warm,
            each.waiting,
        )
        for each in found
    ]
    printing.table(columns, rows)


@nodes.command("drain")
def drain_node(name: NodeName, endpoint: Endpoint = None, token: Token = None) -> None:
    """Empties a node: before its machine is taken down, say.

    It is given no notebook any more, those at rest leave it, and those that run come to their end there. For the
    operator.
    """
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        client.drain_node(name)


@nodes.command("resume")
def resume_node(name: NodeName, endpoint: Endpoint = None, token: Token = None) -> None:
    """Takes a drain back. For the operator."""
    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        client.resume_node(name)
