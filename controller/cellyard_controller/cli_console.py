"""`cellyard console`: where the console of a controller is, and what it is opened with."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cellyard_controller.options import NO_CONTROLLER, AsJson, Data, configuration, end
from cellyard_controller.web import ADDRESS_FILE

_WITHIN_S = 5.0


def console(
    data: Data = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file, TOML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prints the URL of the console. Exit code 3 where no controller serves one: start it with --http."""
    settings = configuration(config, {"data": data})
    token = settings.http.token_file or settings.data / "http.token"
    try:
        url = (settings.data / ADDRESS_FILE).read_text().strip()
        address = urlsplit(url)
        socket.create_connection((address.hostname or "", address.port or 0), _WITHIN_S).close()
    except (OSError, ValueError):  # one that crashed leaves its file
        end(
            NO_CONTROLLER,
            f"no controller on {settings.data} serves a console: start one with `cellyard serve --http 127.0.0.1:9090`",
        )
    if as_json:
        typer.echo(json.dumps({"url": url, "token_file": str(token)}))
    else:
        typer.echo(url)
        typer.echo(f"The operator's token is in {token}; a tenant logs in with their own.", err=True)
