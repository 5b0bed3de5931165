"""The user's own controller: how it is, and ending it."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import typer

from cellyard.cli import outcome, printing
from cellyard.cli.options import AsJson, Endpoint, Token
from cellyard.endpoint import state_dir

STOP_WITHIN_S = 120.0


def status(endpoint: Endpoint = None, token: Token = None, as_json: AsJson = False) -> None:
    """Tells whether the controller is ready.

    Exit code 0 where it answers and is ready, else 3 and why. It starts none.
    """
    from cellyard import Client, ControllerUnavailable

    with outcome.sentences(), Client(endpoint, token) as client:
        try:
            server = client.server(start=False)
        except ControllerUnavailable as gone:
            if as_json:
                printing.as_json({"ready": False, "not_ready_reason": str(gone)})
            raise
    if as_json:
        printing.as_json(server)
    else:
        state = "ready" if server.ready else f"not ready: {server.not_ready_reason}"
        print(printing.visible(f"{server.endpoint}: cellyard {server.version}, {state}"))
        print(printing.visible(f"tenant {server.tenant}, runtimes {', '.join(server.runtimes) or 'none'}"))
    if not server.ready:
        raise typer.Exit(outcome.NO_CONTROLLER)


def stop() -> None:
    """Ends the user's own controller.

    Its sandboxes end with it. It waits until it is gone; none running is no error.
    """
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
