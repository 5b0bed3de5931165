"""The `cellyard` command.

Client commands are in this package. The operator's (serve, doctor, tenants, images, config) come with the extra
`controller`: the entry point group `cellyard.commands` names a typer application whose commands are taken over when one
of them is asked for, so that the others start without it.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of `cellyard`."""
    from cellyard.cli.app import app

    app(prog_name="cellyard")
