"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Endpoint = Annotated[
    str | None, typer.Option("--endpoint", help="unix:PATH or HOST:PORT; without it the user's own controller.")
]
Token = Annotated[str | None, typer.Option("--token", help="The tenant's token (CELLYARD_TOKEN).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
