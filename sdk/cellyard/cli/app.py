"""All commands under one name. The operator's are loaded only when they are asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cellyard import __version__
from cellyard.cli import executions, jupyter, listing, manual, mcp, outcome, own, running, shell, store, watching

OPERATOR = {
    "serve": "Runs a controller in the foreground.",
    "doctor": "Asks the machine: engine, image, capabilities as probed.",
    "tenants": "Who may use the controller.",
    "audit": "Who did what, to which notebook, from where.",
    "images": "The images that sandboxes are made from.",
    "backup": "Copies a controller's data folder, while it runs.",
    "restore": "Makes a data folder of a backup.",
    "config": "The configuration in force.",
    "console": "Where the console is, and what opens it.",
}


class Commands(TyperGroup):
    """The client's commands, and the operator's by name only, until one of them is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name, the client's first."""
        return [*super().list_commands(ctx), *OPERATOR]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; of an operator's only the name and what it does, for the list of commands."""
        if cmd_name in OPERATOR:
            return typer.main.get_command(_placeholder(cmd_name))
        command = super().get_command(ctx, cmd_name)
        return command and manual.added(command, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is to be run; an operator's comes from the extra `controller`."""
        if args and args[0] in OPERATOR:
            found = operator(args[0], silent=ctx.resilient_parsing)
            return args[0], found and manual.added(found.get_command(ctx, args[0]), args[0]), args[1:]
        return super().resolve_command(ctx, args)


def operator(name: str, *, silent: bool = False) -> Any:
    """The operator's commands. Where the extra is not installed it ends the command, or is None in a completion."""
    found = next(iter(entry_points(group="cellyard.commands", name="controller")), None)
    try:
        if found is None:
            raise ImportError(name="cellyard_controller")
        return typer.main.get_command(found.load())
    except ImportError as missing:
        if silent:
            return None
        outcome.end(
            outcome.USAGE,
            f"`cellyard {name}` needs the controller, and {missing.name} is not installed: "
            'pip install "cellyard[controller]"',
        )


def _placeholder(name: str) -> typer.Typer:
    """Stands for an operator's command in the list of commands."""
    stand_in = typer.Typer()
    stand_in.command(name=name, help=OPERATOR[name])(lambda: None)
    return stand_in


app = typer.Typer(
    cls=Commands,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=manual.ROOT,
)


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    """Runs notebook code that nobody trusts in containers."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.command("help")
def show_help(
    ctx: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC...", help=f"A command, or one of {', '.join(manual.TOPICS)}."),
    ] = None,
) -> None:
    """Explains a command, or what concerns all of them."""
    words = topic or []
    if len(words) == 1 and words[0] in manual.TOPICS:
        typer.echo(manual.TOPICS[words[0]])
        return
    here = ctx.find_root()
    command: Any = here.command
    for word in words:
        found = command.resolve_command(here, [word])[1] if isinstance(command, TyperGroup) else None
        if found is None:
            outcome.end(outcome.USAGE, f"there is no command {' '.join(words)!r}, and no such topic")
        command = found
        here = typer.Context(command, info_name=word, parent=here)
    typer.echo(command.get_help(here))


app.command()(running.run)
app.command()(shell.shell)
app.command()(own.status)
app.command()(own.stop)
app.command()(mcp.mcp)
listing.notebooks.command("watch")(watching.watch_notebook)
app.add_typer(listing.notebooks, name="notebooks")
app.add_typer(executions.executions, name="executions")
app.add_typer(listing.sandboxes, name="sandboxes")
app.add_typer(listing.pool, name="pool")
app.add_typer(listing.nodes, name="nodes")
app.add_typer(store.store, name="store")
app.add_typer(jupyter.jupyter, name="jupyter")
