"""`cellyard images`: build, list, remove."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellyard_controller.cli_tables import table
from cellyard_controller.options import FAILED, NO_CONTROLLER, USAGE, AsJson, configuration, end

if TYPE_CHECKING:
    from cellyard_controller.custom_images.build import Order

_LARGEST = 1024 * 1024

images = typer.Typer(no_args_is_help=True, help="The images that sandboxes are made from.")


@images.command("build")
def build_images(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What one of your own is to be called.")] = None,
    file: Annotated[Path | None, typer.Option(help="Its Dockerfile.")] = None,
    requirements: Annotated[Path | None, typer.Option(help="Packages to add, a requirements.txt.")] = None,
    context: Annotated[Path | None, typer.Option(help="A folder whose files the Dockerfile may COPY.")] = None,
    tag: Annotated[str, typer.Option(help="One more name for it, NAME:TAG.")] = "",
    python: Annotated[list[str] | None, typer.Option(help="The image with another Python, like 3.13.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file, TOML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Builds the images that sandboxes start from.

    Without a NAME those that the default templates need, where they are missing. With one an image of your own: it
    is made from a Dockerfile, from requirements, or both. A terminal shows how far it is.

    Exit code 2 for files that are wrong, 1 where they cannot be built, 3 without a container engine.
    """
    with _own():
        if name is None:
            if file or requirements or context or tag:
                end(USAGE, "an image of your own needs a name: cellyard images build NAME --file Dockerfile")
            built: Any = [{"reference": reference} for reference in _build_ours(python or [], tell=not as_json)]
        else:
            order = _order(name, file, requirements, context, tag, python or [], config)
            built = _build_own(order, tell=not as_json)
    if as_json:
        typer.echo(json.dumps(built, indent=2))


@images.command("list")
def list_images(as_json: AsJson = False) -> None:
    """Lists the images of this project that the engine has, newest first.

    Columns: * where this release can start sandboxes from it, name, size, when it was made.
    """
    from cellyard_controller.runtimes.docker import images as docker_images

    with _engine() as client:
        found = [*docker_images.list_images(client), *docker_images.list_custom(client)]
    if as_json:
        typer.echo(json.dumps([asdict(image) for image in found], indent=2))
    else:
        table(
            ("", "image", "size", "made"),
            [
                ("*" if each.expected else "", each.reference, f"{each.size_bytes // 1_000_000}MB", each.created)
                for each in found
            ],
        )


@images.command("remove")
def remove_image(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it was called when it was built.")],
) -> None:
    """Removes an image of your own, in all of its versions.

    Exit code 1 where a sandbox has it still, 2 where there is none.
    """
    from cellyard_controller.custom_images import build

    with _own(), _engine() as client:
        for reference in build.remove(build.check_name(name), client):
            typer.echo(reference)


def _build_ours(pythons: list[str], *, tell: bool) -> Iterator[str]:
    from cellyard_controller.runtimes import PYTHONS
    from cellyard_controller.runtimes.docker import images as docker_images

    unknown = next((version for version in pythons if version not in PYTHONS), None)
    if unknown is not None:
        end(USAGE, f"this release has no image with Python {unknown}: there are {', '.join(PYTHONS)}")
    with _engine() as client:
        for kernel_type in dict.fromkeys((*docker_images.KERNEL_TYPES, *map(docker_images.family, pythons))):
            with _steps(f"{kernel_type} image") as (report, on_step):
                reference = docker_images.build(report, client=client, kernel_type=kernel_type, on_step=on_step)
            if tell:
                typer.echo(reference)
            yield reference


def _build_own(order: Order, *, tell: bool) -> dict[str, Any]:
    from cellyard_controller.custom_images import build

    with _engine() as client, _steps(f"image {order.name}") as (report, on_step):
        built = build.build(order, client, report, on_step)
    if tell:
        typer.echo(built.reference)
    return {"name": order.name, **asdict(built)}


def _order(
    name: str,
    file: Path | None,
    requirements: Path | None,
    context: Path | None,
    tag: str,
    python: list[str],
    config: Path | None,
) -> Order:
    """What is asked for. Raises BadInput."""
    from cellyard_controller.custom_images import build, dockerfile
    from cellyard_controller.custom_images import requirements as listed
    from cellyard_controller.custom_images.errors import BadInput

    build.check_name(name)
    if file is None and requirements is None:
        raise BadInput("an image of your own needs --file Dockerfile, or --requirements requirements.txt, or both")
    if python and (file is not None or len(python) > 1):
        raise BadInput(f"the Dockerfile says which Python it is: FROM {dockerfile.ENVIRONMENT}:{python[0]}")
    if context is not None and not context.is_dir():
        raise BadInput(f"the folder {context} does not exist")
    usual = f"FROM {dockerfile.ENVIRONMENT}" + (f":{python[0]}" if python else "")
    recipe = dockerfile.read(usual, "Dockerfile") if file is None else dockerfile.read(_text(file), file.name)
    wanted = listed.read(_text(requirements), requirements.name) if requirements is not None else []
    index = configuration(config, {}).environments.index
    return build.Order(name, recipe, wanted, context, build.check_tag(tag), index)


def _text(file: Path) -> str:
    from cellyard_controller.custom_images.errors import BadInput

    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise BadInput(f"{file} is larger than {_LARGEST} bytes")
        return content.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not in UTF-8") from None
    except OSError as failed:
        raise BadInput(f"{file} cannot be read: {failed.strerror}") from None


@contextmanager
def _steps(what: str) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None] | None]]:
    """Tells of a build's steps on stderr; on a terminal also how far it is, on a line that goes with the build."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield partial(typer.echo, err=True), None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*shown, console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task(escape(what), total=None)

        def report(line: str) -> None:
            progress.console.print(line, markup=False)
            progress.update(task, description=escape(f"{what}: {line}"), total=None, completed=0)

        def on_step(step: int, steps: int) -> None:
            progress.update(task, total=steps, completed=step - 1)

        yield report, on_step


@contextmanager
def _own() -> Iterator[None]:
    """What is wrong with an operator's files ends the process with 2."""
    from cellyard_controller.custom_images.errors import BadInput

    try:
        yield
    except BadInput as bad:
        end(USAGE, str(bad))


@contextmanager
def _engine() -> Iterator[Any]:
    """A client of the container engine; what goes wrong with it, and what it cannot build, end the process."""
    from cellyard_controller.runtimes import RuntimeFailed
    from cellyard_controller.runtimes.docker import images as docker_images

    try:
        with closing(docker_images.connect()) as client:
            yield client
    except RuntimeFailed as failed:
        end(NO_CONTROLLER if failed.reason == "runtime_lost" else FAILED, str(failed))
