"""`cellyard jupyter`: the kernelspecs whose kernels run in sandboxes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellyard.cli import options, outcome

if TYPE_CHECKING:
    from cellyard.jupyter import kernelspecs

jupyter = typer.Typer(no_args_is_help=True, help="Kernels of JupyterLab, nbclient and others, in sandboxes.")


@jupyter.command()
def install(
    user: Annotated[bool, typer.Option("--user", help="Among the user's own kernelspecs.")] = False,
    prefix: Annotated[
        str | None, typer.Option(help="Below PREFIX/share/jupyter; without it the environment that cellyard is in.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="Which kernels, by comma.")] = "python,deno",
    name: Annotated[str, typer.Option(help="The kernelspec's name; -python and -deno behind it, where both.")] = "",
    display_name: Annotated[str, typer.Option(help="What front ends show.")] = "",
    endpoint: options.Endpoint = None,
    token_file: Annotated[
        str, typer.Option(help="A file with the tenant's token; without it CELLYARD_TOKEN, when a kernel starts.")
    ] = "",
    template: Annotated[str, typer.Option(help="The template of the sandboxes.")] = "",
    network: Annotated[str, typer.Option(help="none, allowlist or open.")] = "",
    env_source: Annotated[str, typer.Option(help="The environment, e.g. uv:pyproject of the notebook's project.")] = "",
    require: Annotated[
        list[str] | None, typer.Option(help="A capability without which no kernel starts; may be repeated.")
    ] = None,
    idle_timeout: Annotated[float, typer.Option(help="Seconds without use after which a sandbox ends.")] = 0.0,
    notebook: Annotated[str, typer.Option(help="A notebook to work in, which is kept.")] = "",
    files: Annotated[str, typer.Option(help="beside: the plain files of the notebook's folder go along.")] = "none",
) -> None:
    """Writes kernelspecs: from then on front ends offer kernels that run in sandboxes. Never writes a token."""
    specs = _specs()
    if user and prefix is not None:
        outcome.end(outcome.USAGE, "--user or --prefix, not both")
    with outcome.sentences():
        kernels = [each.strip() for each in kernel.split(",") if each.strip()]
        _check_endpoint(endpoint)
        for each in kernels:
            config = {
                "kernel": each,
                "endpoint": endpoint or "",
                "token_file": token_file,
                "template": template,
                "network": network,
                "env_source": env_source,
                "require": tuple(require or ()),
                "idle_timeout": idle_timeout,
                "notebook": notebook,
                "files": files,
            }
            content = specs.kernel_json(specs.Settings.read(config), display_name if len(kernels) == 1 else "")
            called = name if name and len(kernels) == 1 else f"{name or 'cellyard'}-{each}"
            folder = specs.install(called, content, user=user, prefix=None if user else prefix or sys.prefix)
            print(f"{called}  {folder}")
        if not kernels:
            outcome.end(outcome.USAGE, "--kernel names none")


@jupyter.command("list")
def show(as_json: options.AsJson = False) -> None:
    """The kernelspecs that `install` has written."""
    found = _specs().installed()
    if as_json:
        print(json.dumps([_told(each) for each in found], indent=1))
        return
    for each in found:
        print(f"{each.name}  {each.display_name}  {each.folder}")


@jupyter.command()
def remove(names: Annotated[list[str] | None, typer.Argument(help="Which; all without one.")] = None) -> None:
    """Removes kernelspecs that `install` has written, and no others."""
    with outcome.sentences():
        for each in _specs().remove(names or []):
            print(f"{each.name}  {each.folder}")


def _told(spec: kernelspecs.Installed) -> dict[str, Any]:
    return {"name": spec.name, "display_name": spec.display_name, "folder": spec.folder, "config": spec.config}


def _check_endpoint(name: str | None) -> None:
    """Raises InvalidRequest for what cannot be one."""
    if name:
        from cellyard import endpoint

        endpoint.resolve(name, None, False, {})


def _specs() -> Any:
    """The module that knows kernelspecs. Ends the command where the extra is not installed."""
    try:
        from cellyard.jupyter import kernelspecs
    except ImportError as missing:
        outcome.end(
            outcome.USAGE,
            f'`cellyard jupyter` needs {missing.name}, which is not installed: pip install "cellyard[jupyter]"',
        )
    return kernelspecs
