"""Options and arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from cellyard.cli import completing

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="ENDPOINT",
        help="The controller, unix:PATH or HOST:PORT (CELLYARD_ENDPOINT); without it the user's own, started when "
        "needed.",
    ),
]
Token = Annotated[
    str | None, typer.Option("--token", metavar="TOKEN", help="The tenant's token (CELLYARD_TOKEN), for HOST:PORT.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NotebookId = Annotated[
    str, typer.Argument(metavar="NOTEBOOK", help="The notebook's id.", autocompletion=completing.notebooks)
]
Notebook = Annotated[
    str, typer.Option("--notebook", metavar="ID", help="The notebook's id.", autocompletion=completing.notebooks)
]
ExecutionId = Annotated[
    str, typer.Argument(metavar="EXECUTION", help="The execution's id.", autocompletion=completing.executions)
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.", autocompletion=completing.nodes)]
SandboxId = Annotated[
    str, typer.Argument(metavar="SANDBOX", help="The sandbox's id.", autocompletion=completing.sandboxes)
]

# How a kernel is to be started, where none runs yet: of `run` and of `shell`.
Kernel = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="The kernel's type: python or deno.", autocompletion=completing.kernels),
]
EnvSource = Annotated[
    str, typer.Option(metavar="SOURCE", help="The kernel's environment.", autocompletion=completing.env_sources)
]
Template = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What the sandbox is made from.", autocompletion=completing.templates),
]
Python = Annotated[
    str | None, typer.Option(metavar="VERSION", help="Another Python than the template's own, like 3.13.")
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help="What of the network code may reach: none, allowlist or open; without it as the template says.",
        autocompletion=completing.networks,
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="docker, or process, which isolates nothing; without it the controller's default.",
        autocompletion=completing.runtimes,
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CAPABILITY",
        help="Refuse, with exit code 4, where this is not proven; several.",
        autocompletion=completing.capabilities,
    ),
]
