"""`cellyard store`: what code mode keeps in folders and in Redis, compared and taken from one to the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellyard.cli import outcome
from cellyard.cli.options import AsJson
from cellyard.cli.printing import visible
from cellyard.codemode.storage.copying import Difference, Thing, Type, copy, differences, things

if TYPE_CHECKING:
    from cellyard.codemode.storage.protocols import StorageBackend

store = typer.Typer(
    no_args_is_help=True,
    help="Workflows, artifacts, tools and requirements of code mode. A place is a folder, a URL of Redis (redis://, "
    "rediss://, unix://), or env:NAME for one that the environment variable NAME holds, so that a password stands on "
    "no command line. Exit codes: 2 usage, 4 a place that cannot be read or written.",
)

_URLS = ("redis://", "rediss://", "unix://")

_Place = Annotated[str, typer.Argument(help="A folder, a URL of Redis, or env:NAME.", show_default=False)]
_Types = Annotated[list[Type] | None, typer.Option("--type", help="Only these; several.", show_default=False)]
_Names = Annotated[list[str] | None, typer.Option("--name", help="Only what is called so; several.")]
_Prefix = Annotated[str, typer.Option(help="What keys in Redis begin with.")]
_Workspace = Annotated[str | None, typer.Option(help="The workspace; without it the part that has none.")]
_ToPrefix = Annotated[str | None, typer.Option(help="The same at TO, where it is another one.")]
_ToWorkspace = Annotated[str | None, typer.Option(help='The same at TO, where it is another one; "" for none.')]


@store.command("migrate")
def migrate(
    source: Annotated[str, typer.Option("--from", metavar="URL_OR_DATA", help="What is copied.", show_default=False)],
    target: Annotated[
        str, typer.Option("--to", metavar="URL_OR_DATA", help="A new place, or an empty database.", show_default=False)
    ],
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file, TOML.")] = None,
    as_json: AsJson = False,
) -> None:
    """For operators: copies a controller's store from a data folder into PostgreSQL, or back.

    A place is here a data folder, or postgresql://USER@HOST:PORT/DATABASE; all controllers on either must have ended.
    The password, and where large parts are kept, come from the configuration's section `store`. The copy is whole and
    verified, or the target stays as it was; the source stays as it is in either case.
    """
    from cellyard.cli.app import operator

    given = ["--from", source, "--to", target]
    given += ["--config", str(config)] if config is not None else []
    operator("store").main(["store", "migrate", *given, *(["--json"] if as_json else [])], prog_name="cellyard")


@store.command("list")
def list_store(
    place: _Place,
    types: _Types = None,
    prefix: _Prefix = "cellyard",
    workspace: _Workspace = None,
    as_json: AsJson = False,
) -> None:
    """What a place has, one a line: type, name, description."""
    with outcome.sentences(), _opened(place, prefix, workspace) as storage:
        found = list(things(storage, types or list(Type)))
    if as_json:
        typer.echo(json.dumps([_data(each) for each in found], indent=2))
        return
    for each in found:
        typer.echo("  ".join((each.type.value, _shown(each.name), _shown(each.description))).rstrip())


@store.command("diff")
def diff_stores(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder, a URL of Redis, or env:NAME.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same.")],
    types: _Types = None,
    prefix: _Prefix = "cellyard",
    workspace: _Workspace = None,
    to_prefix: _ToPrefix = None,
    to_workspace: _ToWorkspace = None,
    as_json: AsJson = False,
) -> None:
    """Compares two places: + only FROM has it, - only TO has it, ~ they differ, = both have the same.

    When an artifact was written is no difference. Exit code 0 where all is the same, 1 where something differs, 2 and
    above in trouble, as `diff` has it.
    """
    with (
        outcome.sentences(),
        _opened(source, prefix, workspace) as first,
        _opened(target, *_other(prefix, workspace, to_prefix, to_workspace)) as second,
    ):
        found = list(differences(first, second, types or list(Type)))
    if as_json:
        marked = [{"difference": mark.value, "type": each.type.value, "name": each.name} for mark, each in found]
        typer.echo(json.dumps(marked, indent=2))
    else:
        for mark, each in found:
            typer.echo(f"{mark.value} {each.type.value}  {_shown(each.name)}")
    if any(mark is not Difference.SAME for mark, _ in found):
        raise typer.Exit(1)


@store.command("copy")
def copy_store(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder, a URL of Redis, or env:NAME.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same; a folder is made where it is missing.")],
    types: _Types = None,
    name: _Names = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what differs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    prefix: _Prefix = "cellyard",
    workspace: _Workspace = None,
    to_prefix: _ToPrefix = None,
    to_workspace: _ToWorkspace = None,
    as_json: AsJson = False,
) -> None:
    """Copies what FROM has to TO, and says of each thing what was done. Nothing is ever removed from TO.

    Where TO has something else under a name, nothing at all is copied (exit code 4), unless --overwrite is given.
    Exit code 0 where all is there now, 1 where TO refused some of it; what else there was is copied then.
    """
    with (
        outcome.sentences(),
        _opened(source, prefix, workspace) as first,
        _opened(target, *_other(prefix, workspace, to_prefix, to_workspace), new=True, touch=not dry_run) as second,
    ):
        found = [pair for pair in differences(first, second, types or list(Type)) if _wanted(pair, name)]
        missing = sorted(set(name or ()) - {each.name for _, each in found})
        if missing:
            outcome.end(outcome.USAGE, f"FROM has nothing called {', '.join(map(_shown, missing))}; nothing was copied")
        others = [each for mark, each in found if mark is Difference.OTHER]
        if others and not overwrite and not dry_run:
            for each in others:
                outcome.say(f"TO has another one: {each.type.value} {_shown(each.name)}")
            outcome.end(outcome.REFUSED, "nothing was copied: --overwrite replaces what differs, --name chooses")
        account = _Account(as_json)
        try:
            for mark, each in found:
                account.add(each, *_done(first, second, mark, each, overwrite=overwrite, dry_run=dry_run))
        finally:  # also where a place went away, or somebody interrupted: what was done was done
            account.end(len(found))
    if account.failed:
        raise typer.Exit(1)


class _Account:
    """Says what was done."""

    def __init__(self, as_json: bool) -> None:
        self.failed = 0
        self._as_json = as_json
        self._lines: list[dict[str, str]] = []

    def add(self, thing: Thing, done: str, error: str = "") -> None:
        """One thing: what was done with it, and why not more."""
        self._lines.append({"type": thing.type.value, "name": thing.name, "done": done, "error": error})
        self.failed += bool(error)
        if not self._as_json:
            typer.echo(f"{done}  {thing.type.value}  {_shown(thing.name)}" + (f": {_shown(error)}" if error else ""))

    def end(self, count: int) -> None:
        """All has been tried, or `count` things were not all reached."""
        if self._as_json:
            typer.echo(json.dumps(self._lines, indent=2))
        if len(self._lines) < count:
            outcome.say(f"{count - len(self._lines)} of {count} were not reached")


def _done(
    source: StorageBackend,
    target: StorageBackend | None,
    mark: Difference,
    thing: Thing,
    *,
    overwrite: bool,
    dry_run: bool,
) -> tuple[str, str]:
    """Does what is to be done with one thing: what that was, and what went wrong with this one alone."""
    from cellyard.codemode.errors import CodeModeError, StorageError

    if mark is Difference.SAME:
        return "unchanged", ""
    new = mark is Difference.MISSING
    if target is None or dry_run:
        if new:
            return "would copy", ""
        return (
            ("would replace", "") if overwrite else ("would refuse", "TO has another one, and --overwrite is not given")
        )
    try:
        copy(source, target, thing)
    except StorageError:
        raise
    except CodeModeError as refused:
        return "refused", refused.message
    return ("copied" if new else "replaced"), ""


def _wanted(pair: tuple[Difference, Thing], chosen: Sequence[str] | None) -> bool:
    mark, thing = pair
    return mark is not Difference.ADDITIONAL and (not chosen or thing.name in chosen)


def _other(
    prefix: str, workspace: str | None, to_prefix: str | None, to_workspace: str | None
) -> tuple[str, str | None]:
    """Prefix and workspace of TO."""
    return (
        prefix if to_prefix is None else to_prefix,
        workspace if to_workspace is None else to_workspace or None,
    )


@contextmanager
def _opened(place: str, prefix: str, workspace: str | None, *, new: bool = False, touch: bool = True) -> Iterator[Any]:
    """A place's storage. `new`: it may be missing; then it is made, or with `touch=False` there is None."""
    if place.startswith("env:"):
        variable = place.removeprefix("env:")
        place = os.environ.get(variable, "")
        if not place:
            outcome.end(outcome.USAGE, f"the environment variable {variable} holds no place")
    if place.startswith(_URLS):
        from cellyard.codemode.storage.redis import RedisStorage

        with _closing(RedisStorage(place, prefix=prefix, workspace_id=workspace)) as storage:
            yield storage
        return
    from cellyard.codemode.storage.file import FileStorage

    if not Path(place).expanduser().exists():
        if not new:
            outcome.end(outcome.USAGE, f"{_without_secrets(place)} is no folder, and no URL of Redis")
        if not touch:
            yield None
            return
    with _closing(FileStorage(place, workspace)) as storage:
        yield storage


@contextmanager
def _closing(storage: StorageBackend) -> Iterator[StorageBackend]:
    try:
        yield storage
    finally:
        storage.close()


def _without_secrets(place: str) -> str:
    """What somebody typed; nothing of it where it may be meant as a URL."""
    return "that" if "://" in place or "@" in place else place


def _data(thing: Thing) -> dict[str, Any]:
    from cellyard.codemode.storage.protocols import ArtifactInfo, StoredTool

    data: dict[str, Any] = {"type": thing.type.value, "name": thing.name}
    match thing.value:
        case str(requirement):
            data["requirement"] = requirement
        case StoredTool(path=path):
            data["path"] = path
        case ArtifactInfo() as info:
            data |= {
                "description": info.description,
                "metadata": dict(info.metadata),
                "created_at": info.created_at.isoformat(),
                "data_type": info.type,
                "size": info.size,
            }
        case workflow:
            data["description"] = workflow.description
    return data


def _shown(text: str) -> str:
    """Its first line, without what would do something to a terminal."""
    return visible(text.split("\n", 1)[0])
