"""The operator's commands for backups: taken of a data folder, whether its controller runs or not, and restored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cellyard_controller.options import FAILED, USAGE, AsJson, Data, configuration, end
from cellyard_proto import amounts

_WHAT = {"database": "database", "files": "outputs and artifacts"}


def backup(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new or empty folder.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Copies a data folder as it is at this moment. Its controller may run and go on with its work."""
    from cellyard_controller.backups.contents import BackupFailed, BackupRefused
    from cellyard_controller.backups.taking import take

    folder = _folder(data)
    try:
        with _shown() as progress:
            made = take(folder, destination, progress)
    except BackupRefused as refused:
        end(USAGE, str(refused))
    except BackupFailed as failed:
        end(FAILED, str(failed))
    if made.damage:
        typer.echo(f"cellyard: the database is damaged, and so is the copy: {made.damage}", err=True)
    if made.missing:
        typer.echo(f"cellyard: {len(made.missing)} files were missing or damaged, and are not in the backup", err=True)
    _told(
        as_json, {"backup": str(destination), **_summary(made)}, f"{folder} as of {made.taken_at} is in {destination}"
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A backup's folder.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Makes a new data folder of a backup, every byte of it checked. What had not ended then ends `lost`."""
    from cellyard_controller.backups.contents import BackupFailed, BackupRefused
    from cellyard_controller.backups.restoring import restore as put_back

    folder = _folder(data)
    try:
        with _shown() as progress:
            made = put_back(source, folder, progress)
    except BackupRefused as refused:
        end(USAGE, str(refused))
    except BackupFailed as failed:
        end(FAILED, str(failed))
    _told(as_json, {"data": str(folder), **_summary(made)}, f"{folder} is as it was at {made.taken_at}")


def _folder(data: Path | None) -> Path:
    """The data folder; ends the process where what it has is elsewhere."""
    config = configuration(None, {"data": data})
    if config.store.url:
        parts, key = (
            config.store.blobs_folder or config.data / "blobs",
            config.store.key_file or config.data / "seal.key",
        )
        end(
            USAGE,
            "the store is on PostgreSQL (store.url): back it up with pg_dump, then copy the folder of large parts "
            f"({parts}) and {key}; pg_restore brings it back",
        )
    return config.data


def _summary(made: Any) -> dict[str, Any]:
    values = asdict(made)
    values["missing"] = len(made.missing)
    values["bytes"] = made.blob_bytes + sum(each.size for each in made.files.values())
    del values["files"], values["blob_bytes"]
    return values


def _told(as_json: bool, summary: dict[str, Any], sentence: str) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        typer.echo(f"{sentence}: {amounts.size(summary['bytes'])}, {summary['blobs']} files of outputs and artifacts")


@contextmanager
def _shown() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for people who look; nothing where nobody does."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal) as bars:
        tasks = {name: bars.add_task(text, total=None) for name, text in _WHAT.items()}
        yield lambda what, done, of: bars.update(tasks[what], completed=done, total=of or None)
