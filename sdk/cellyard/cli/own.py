"""The user's own controller: how it is, and ending it."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path

import typer

from cellyard.cli import outcome
from cellyard.cli.options import AsJson, Endpoint, Token
from cellyard.endpoint import state_dir

STOP_WITHIN_S = 120.0


def status(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """Whether the controller answers and is ready: exit code 0, else 3 and why."""
    import dataclasses

    from cellyard import Client

    with outcome.sentences(), Client(endpoint, token) as client:
        server = client.server(start=False)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(server), indent=2))
    else:
        state = "ready" if server.ready else f"not ready: {server.not_ready_reason}"
        typer.echo(f"{server.endpoint}: cellyard {server.version}, {state}")
        typer.echo(f"tenant {server.tenant}, runtimes {', '.join(server.runtimes) or 'none'}")
    if not server.ready:
        raise typer.Exit(outcome.NO_CONTROLLER)


def stop() -> None:
    """Ends the user's own controller and its sandboxes, and waits until it is gone. None running is no error."""
    pid = _pid(state_dir() / "controller.pid")
    if pid is None:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        ended, _, _ = select.select([handle], [], [], STOP_WITHIN_S)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    if not ended:
        outcome.end(outcome.NO_CONTROLLER, f"the controller (pid {pid}) did not end within {STOP_WITHIN_S:.0f} s")


def _pid(path: Path) -> int | None:
    """The process id in a file, if that process is a controller: ids are used again."""
    try:
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"cellyard" in command else None
