"""The `cellyard` command.

Client commands are in this package. The operator's (serve, doctor, tenants, images, config) come with the extra
`controller`: the entry point group `cellyard.commands` names a typer application whose commands are taken over when one
of them is asked for, so that the others start without it.
"""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Entry point of `cellyard`."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # stderr is for sentences
    os.environ["TYPER_USE_RICH"] = "0"  # help and errors are plain text, in every terminal, and start in half the time
    # jsonschema, of nbformat and mcp, takes this where JupyterLab has brought it along: for formats that nobody asks
    # for here it compiles a grammar, in a second and a half of each such command's start. It does without as well.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # letters that a terminal lacks are no reason to fail
    from cellyard.cli.app import app

    app(prog_name="cellyard", args=arguments(sys.argv[1:]))


def arguments(given: list[str]) -> list[str]:
    """The arguments with `--files A B` written out as `--files A --files B`, which is what the parser knows."""
    spread: list[str] = []
    taking = False
    for position, argument in enumerate(given):
        if argument == "--":
            return [*spread, *given[position:]]
        if argument == "--files":
            taking = True
        elif argument.startswith("-") and argument != "-":
            taking = False
            spread.append(argument)
        else:
            spread += ["--files", argument] if taking else [argument]
    return spread
