"""The operator's command for the audit log: read from the data folder, whether a controller runs or not."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cellyard_controller.cli_tables import visible
from cellyard_controller.options import USAGE, AsJson, Data, configuration, end

_LOOK_EVERY = 0.5

Wanted = Callable[[dict[str, Any]], bool]


def audit(
    tenant: Annotated[str, typer.Option(help="Of this tenant only.")] = "",
    notebook: Annotated[str, typer.Option(help="About this notebook only.")] = "",
    action: Annotated[str, typer.Option(help="Actions that begin so: Files., sandbox., Notebooks.Delete")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    since: Annotated[str, typer.Option(help="Of the last 90d, 12h, 30min; or from 2024-02-29 on.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The last ones, at most this many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Shows who did what, to which notebook, from where.

    Oldest first; with --json one object a line. It is read from the data folder, whether a controller runs or not.
    """
    folder, first = configuration(None, {"data": data}).data, _first(since)

    def wanted(entry: dict[str, Any]) -> bool:
        return (
            entry.get("at", "") >= first
            and (not tenant or entry.get("tenant") == tenant)
            and (not notebook or entry.get("notebook_id") == notebook)
            and str(entry.get("action", "")).startswith(action)
            and (not refused or entry.get("outcome", "ok") != "ok")
        )

    try:
        for entry in deque(_entries(folder, wanted), limit):
            typer.echo(_shown(entry, as_json))
        if follow:
            for entry in _coming(folder, wanted):
                typer.echo(_shown(entry, as_json))
    except OSError as failed:
        end(USAGE, f"the audit log in {folder} cannot be read: {failed.strerror}")
    except KeyboardInterrupt:
        pass


def _entries(folder: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    from cellyard_controller.tenants import audit as log

    for path in log.files(folder):
        with path.open("rb") as file:
            for line in file:
                entry = log.entry_of(line)
                if entry is not None and wanted(entry):
                    yield entry


def _coming(folder: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """What is written from now on, also where another file begins meanwhile."""
    from cellyard_controller.tenants import audit as log

    path, rest = folder / log.FILE, b""
    file = path.open("rb") if path.exists() else None
    if file is not None:
        file.seek(0, 2)
    while True:
        content = file.read() if file is not None else b""
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            entry = log.entry_of(line)
            if entry is not None and wanted(entry):
                yield entry
        if content:
            continue
        if path.exists() and (file is None or not path.samefile(f"/proc/self/fd/{file.fileno()}")):
            if file is not None:
                file.close()
            file, rest = path.open("rb"), b""
        else:
            time.sleep(_LOOK_EVERY)


def _first(since: str) -> str:
    """The first moment that is asked for, as entries have it."""
    from datetime import UTC, datetime

    from cellyard_proto import amounts

    if not since:
        return ""
    try:
        moment = datetime.fromisoformat(since)
        known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return known.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        pass
    try:
        span = amounts.parse_duration(since)
    except ValueError:
        end(USAGE, f"--since: {since[:40]!r} is neither a time span (12h) nor a moment (2024-02-29)")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(max(0.0, time.time() - span)))


def _shown(entry: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(entry)
    first = [visible(str(entry.get(key) or "-")) for key in ("at", "tenant", "from", "action", "outcome")]
    named = ("at", "tenant", "from", "action", "outcome")
    return "  ".join([*first, *(f"{key}={json.dumps(value)}" for key, value in entry.items() if key not in named)])
