"""`cellyard shell`: an interactive prompt into a notebook."""

from __future__ import annotations

import os
import sys
import uuid
from typing import Annotated

import typer

from cellyard.cli import completing, outcome
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


def shell(
    notebook: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Work in this notebook, and keep it.", autocompletion=completing.notebooks),
    ] = None,
    env_source: EnvSource = "auto",
    kernel: Kernel = None,
    template: Template = None,
    python: Python = None,
    network: Network = None,
    runtime: Runtime = None,
    require: Require = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the notebook that was made for this shell.")] = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Opens a prompt into a notebook.

    What is typed runs in a sandbox, as a cell. Enter runs what is complete and begins a new line in what is not;
    Alt-Enter runs it anyway. Tab completes as the kernel knows it, the arrow keys and Ctrl-R go through the history.
    Output comes as it is written; input() and getpass ask here. Ctrl-C at the prompt clears what was typed, while a
    cell runs it interrupts it; where a cell ignores that, a third one restarts the kernel. Ctrl-D leaves. `:help`
    lists what else there is.

    The notebook is made for the shell and removed at its end, unless --notebook names one or --keep is given. What
    other clients run in the same notebook is not shown, nor what a thread prints after its cell. The history is the
    user's, without what was typed into input(). It needs a terminal: from a pipe, `cellyard run -` runs code.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        outcome.end(outcome.USAGE, "the shell needs a terminal; `cellyard run -` runs code from a pipe")
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # nothing here needs to know where the cursor is
    import asyncio

    from cellyard import AsyncSession
    from cellyard.cli.shell import prompting
    from cellyard.cli.shell.loop import Shell
    from cellyard.cli.shell.screen import Screen

    kernel_type = kernel or "python"
    screen = Screen()
    session = AsyncSession(
        notebook or f"cellyard-shell-{uuid.uuid4()}",
        endpoint=endpoint,
        token=token,
        runtime=runtime,
        template=template,
        python_version=python,
        network=network,
        require=require or (),
        on_progress=screen.progress,
    )
    opened = Shell(session, screen, prompting.Prompts(session, kernel_type), kernel_type, env_source)
    with outcome.sentences(), screen.restored():
        code = asyncio.run(opened.run(keep=keep or notebook is not None, endpoint=endpoint, token=token))
    raise typer.Exit(code)
