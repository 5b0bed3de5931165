"""The operator's command that takes a store to another place: into PostgreSQL, or out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellyard_controller.cli_tables import visible
from cellyard_controller.options import FAILED, USAGE, AsJson, configuration, end
from cellyard_proto import amounts

if TYPE_CHECKING:
    from cellyard_controller.config import Config
    from cellyard_controller.store.places import Place

store = typer.Typer(no_args_is_help=True, help="Where a controller keeps what it has.")


@store.callback()
def _group() -> None:
    """Where a controller keeps what it has."""


@store.command("migrate")
def migrate(
    source: Annotated[str, typer.Option("--from", metavar="URL_OR_DATA", help="What is copied.")],
    target: Annotated[str, typer.Option("--to", metavar="URL_OR_DATA", help="A new place, or an empty database.")],
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file, TOML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Copies a store from a data folder into PostgreSQL, or back. All controllers on it must have ended.

    A place is a data folder, or postgresql://USER@HOST:PORT/DATABASE. The password, and where large parts are kept,
    come from the configuration's section `store`. The copy is whole and verified, or the target stays as it was; the
    source stays as it is in either case.
    """
    from cellyard_controller.api.server import CannotListen
    from cellyard_controller.store import StoreFailed
    from cellyard_controller.store.moving import move

    settings = configuration(config, {})
    try:
        with ExitStack() as stack:
            here, there = (_place(each, settings, stack) for each in (source, target))
            moved = move(here, there, stack.enter_context(_shown()))
    except (CannotListen, OSError) as refused:
        end(USAGE, str(refused))
    except StoreFailed as failed:
        end(FAILED, str(failed))
    if moved.missing:
        typer.echo(f"cellyard: {moved.missing} files were missing or damaged, and are not in the copy", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(moved), indent=2))
        return
    files = f"{moved.blobs} files of outputs and artifacts, {amounts.size(moved.blob_bytes)}"
    typer.echo(f"{visible(str(there))} has all of {visible(str(here))}: {moved.rows} rows, {files}")
    typer.echo("The key that seals settings goes with it: store.key_file, or else DATA/seal.key.", err=True)


def _place(text: str, config: Config, stack: ExitStack) -> Place:
    """A place that was named; a data folder is locked, so that no controller begins on it."""
    from cellyard_controller.api.server import lock
    from cellyard_controller.store import StoreFailed, places

    if "://" in text:
        place = places.of(config.store.model_copy(update={"url": text}), config.data)
        try:
            str(place)
        except StoreFailed as bad:
            end(USAGE, str(bad))
        return place
    data = Path(text).expanduser().absolute()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    stack.callback(os.close, lock(data / "lock", f"the data folder {data}"))
    return places.SqliteFile(data / places.DATABASE, data / "blobs")


@contextmanager
def _shown() -> Iterator[Callable[[str, int], None]]:
    """What is copied right now, for people who look; nothing where nobody does."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    with console.status("copying") as status:
        yield lambda what, count: status.update(f"copying {what}: {count}")
