"""`cellyard mcp`: a server for models, over stdio or HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cellyard.cli import outcome
from cellyard.cli.options import Endpoint, Token


def mcp(
    http: Annotated[
        str | None, typer.Option("--http", metavar="HOST:PORT", help="Serve HTTP here instead of stdin and stdout.")
    ] = None,
    notebook: Annotated[
        str | None, typer.Option(help="The server's own notebook; without it a fresh one, made at the first run.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for code that names none; 0 for no limit.")] = 60.0,
    max_chars: Annotated[int, typer.Option(help="Characters of text in a result; more is cut in the middle.")] = 20_000,
    template: Annotated[str | None, typer.Option(help="What sandboxes are made from.")] = None,
    network: Annotated[str | None, typer.Option(help="Network policy.")] = None,
    require: Annotated[list[str] | None, typer.Option(help="A capability that must be proven; several.")] = None,
    http_token_file: Annotated[
        Path | None, typer.Option(help="Where HTTP's token is; made where it is missing. Usually in the state folder.")
    ] = None,
    http_host: Annotated[
        list[str] | None, typer.Option(help="Another name by which clients reach HTTP; several.")
    ] = None,
    insecure_listen: Annotated[
        bool, typer.Option("--insecure-listen", help="Allow HTTP beyond loopback, though it has no TLS.")
    ] = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Serves notebooks to models by the Model Context Protocol. Its kernels end with it, if nobody else uses them."""
    # jsonschema, which comes with mcp, takes seconds to read this package's grammar where Jupyter has installed it, for
    # a format of strings (IRIs) that nothing here has.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    try:
        from cellyard.mcp import bounds, serving
        from cellyard.mcp import http as over_http
    except ImportError as missing:
        outcome.end(
            outcome.USAGE, f'`cellyard mcp` needs {missing.name}, which is not installed: pip install "cellyard[mcp]"'
        )
    from cellyard.endpoint import state_dir

    with outcome.sentences():
        if timeout < 0 or timeout != timeout:
            outcome.end(outcome.USAGE, f"--timeout is a number of seconds, not {timeout:g}")
        if not bounds.MIN_CHARACTERS <= max_chars <= bounds.MAX_CHARACTERS:
            outcome.end(
                outcome.USAGE,
                f"--max-chars is from {bounds.MIN_CHARACTERS} to {bounds.MAX_CHARACTERS}, not {max_chars}",
            )
        settings = serving.Settings(
            endpoint, token, notebook, template, network, tuple(require or ()), timeout or None, max_chars
        )
        if http is None:
            serving.over_stdio(settings)
            return
        where = over_http.address(http, http_host or (), insecure=insecure_listen)
        kept = http_token_file or state_dir() / "mcp.token"
        serving.over_http(
            settings, where, kept, lambda url: outcome.say(f"serving {url} with the bearer token in {kept}")
        )
