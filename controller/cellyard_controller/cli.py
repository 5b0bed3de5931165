"""The operator's commands: serve, doctor, tenants, images, config. `cellyard` takes them over from here."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cellyard_controller import memory
from cellyard_controller.cli_audit import audit
from cellyard_controller.cli_backup import backup, restore
from cellyard_controller.cli_console import console
from cellyard_controller.cli_images import images
from cellyard_controller.cli_store import store
from cellyard_controller.cli_tables import visible
from cellyard_controller.cli_tenants import tenants
from cellyard_controller.options import DONE, NO_CONTROLLER, USAGE, AsJson, Data, file_of_environment
from cellyard_controller.options import configuration as _configuration
from cellyard_controller.options import end as _end

commands = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Commands of a Cellyard controller.",
)
config_commands = typer.Typer(no_args_is_help=True, help="The configuration in force.")
commands.add_typer(tenants, name="tenants")
commands.command("audit")(audit)
commands.command("backup")(backup)
commands.command("restore")(restore)
commands.command("console")(console)
commands.add_typer(images, name="images")
commands.add_typer(store, name="store")
commands.add_typer(config_commands, name="config")


def main() -> None:
    """Entry point of `python -m cellyard_controller`."""
    commands(prog_name="cellyard")


@commands.command()
def serve(
    listen: Annotated[list[str] | None, typer.Option("--listen", help="unix:PATH or HOST:PORT; several.")] = None,
    data: Data = None,
    runtime: Annotated[str | None, typer.Option(help="Runtimes, the default first: docker,process")] = None,
    pool: Annotated[int | None, typer.Option(help="Warm sandboxes of the default template at least.")] = None,
    http: Annotated[str | None, typer.Option("--http", help="Console, health and metrics: HOST:PORT.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file, TOML.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain for TCP, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key for TCP, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authority of certificates that clients need, PEM.")
    ] = None,
    insecure_listen: Annotated[
        bool, typer.Option("--insecure-listen", help="TCP beyond loopback without TLS.")
    ] = False,
    reflection: Annotated[bool, typer.Option("--reflection", help="Answer gRPC's server reflection.")] = False,
    on_stop: Annotated[
        str | None, typer.Option(help="Sandboxes, claimed and warm, at SIGTERM: remove or keep.")
    ] = None,
    linger: Annotated[float | None, typer.Option(help="End after this many unused seconds.")] = None,
    ready_fd: Annotated[int | None, typer.Option(help="Write a line to this descriptor when ready.")] = None,
) -> None:
    """Runs a controller in the foreground.

    It ends at SIGTERM or SIGINT, exit code 0: no new work, and its sandboxes are removed, or kept for its successor
    with --on-stop keep; a second signal ends it at once. A data folder serves one controller at a time. Without a
    container engine it stays up, not ready, says why, and tries again.

    What flags do not say stands in the environment (CELLYARD_POOL__SIZE), then in the file (--config, or
    CELLYARD_CONFIG), then by default: `cellyard config show`.
    """
    gc.disable()  # until all is imported
    from cellyard_controller import logs
    from cellyard_controller.api.server import CannotListen
    from cellyard_controller.app import Controller
    from cellyard_controller.cluster.errors import NameTaken
    from cellyard_controller.notify import ServiceManager
    from cellyard_controller.store import StoreFailed

    flags: dict[str, Any] = {
        "listen": tuple(listen) if listen else None,
        "data": data,
        "runtime": runtime,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "insecure_listen": insecure_listen or None,
        "reflection": reflection or None,
        "on_stop": on_stop,
        "linger": linger,
        "pool": {"size": pool} if pool is not None else None,
        "http": {"listen": http} if http is not None else None,
    }
    settings = _configuration(config, flags)
    if not settings.listen:
        settings = settings.model_copy(update={"listen": (f"unix:{_own_socket()}",)})
    logs.configure(settings.log)

    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)  # a child that had it too would keep whoever waits for its end waiting

    manager = ServiceManager()

    def ready() -> None:
        manager.ready("serving")
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)

    controller = Controller(settings)

    def lost() -> None:
        """Threads may wait for a store that is away: nothing waits for them."""
        typer.echo(f"cellyard: {_lost(controller.lost_because)}", err=True)
        os._exit(NO_CONTROLLER)

    async def run() -> None:
        await controller.run(ready, lambda: manager.stopping("draining"), lost)

    memory.give_back()
    memory.keep_what_is_there()
    try:
        _run_fast(run)
    except* CannotListen as refused:
        first = refused.exceptions[0]
        _end(USAGE if isinstance(first, CannotListen) and first.usage else NO_CONTROLLER, str(first))
    except* (StoreFailed, NameTaken) as failed:
        _end(NO_CONTROLLER, str(failed.exceptions[0]))
    if controller.lost_because:
        _end(NO_CONTROLLER, _lost(controller.lost_because))


@commands.command()
def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """Asks the machine: engine, image, capabilities as probed.

    Each failure says what to do about it. Exit code 0 where all is well, else 3; within 10 s, or 30 where the engine
    hangs.
    """
    from cellyard_controller import templates
    from cellyard_controller.app import configured_runtimes
    from cellyard_controller.notebooks import set_aside

    settings = _configuration(None, {"data": data, "runtime": "docker"})

    async def ask() -> list[dict[str, Any]]:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        runtime = configured_runtimes(settings, "doctor")["docker"]
        checks: list[dict[str, Any]] = []
        if damaged := set_aside.kept(settings.data):
            names, folder = ", ".join(file.name for file in damaged), settings.data / set_aside.FOLDER
            says = f"damaged ones are kept in {folder} until their notebooks are deleted: {names}"
            checks.append({"check": "documents", "ok": False, "says": says})
        try:
            for name, each in settings.templates.items():
                # The template is named where there is more than the one that everybody has.
                prefix = "" if name == "default" else f"{name}: "
                template = templates.find({name: each}, name)
                assert template is not None
                readiness = await runtime.readiness(template)
                says = readiness.reason or "ready"
                checks.append({"check": f"{prefix}docker runtime", "ok": readiness.ready, "says": says})
                if readiness.ready:
                    facts = await runtime.capabilities(template)
                    checks += [
                        {"check": f"{prefix}{fact.name}", "ok": fact.granted, "says": fact.evidence} for fact in facts
                    ]
        finally:
            await runtime.close()
        return checks

    checks = asyncio.run(ask())
    healthy = all(check["ok"] for check in checks)
    if as_json:
        typer.echo(json.dumps({"ok": healthy, "checks": checks}, indent=2))
    else:
        for check in checks:
            typer.echo(visible(f"{'ok' if check['ok'] else 'FAILED':<7}{check['check']}: {check['says']}"))
    raise typer.Exit(DONE if healthy else NO_CONTROLLER)


@config_commands.command("show")
def show_config(
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file, TOML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows the configuration in force.

    Each value with where it comes from: the default, the file or the environment.
    """
    from cellyard_controller.config import with_sources

    values = with_sources(_configuration(config, {}), config or file_of_environment())
    typer.echo(json.dumps(values, indent=2) if as_json else "\n".join(_lines(values)))


def _lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in values.items():
        if set(value) == {"value", "source"}:
            lines.append(f"{prefix}{name} = {json.dumps(value['value'])}  ({value['source']})")
        else:
            lines += _lines(value, f"{prefix}{name}.")
    return lines


def _own_socket() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "cellyard" / "controller.sock"
    from cellyard_controller.config import default_data

    return default_data() / "run" / "controller.sock"


def _lost(why: str) -> str:
    return f"this node has lost its lease: {why}"


def _run_fast(work: Callable[[], Any]) -> None:
    """Runs the controller on uvloop. Errors come as a group, as from the task group inside."""
    import uvloop

    try:
        uvloop.run(work())
    except BaseExceptionGroup:
        raise
    except Exception as failed:
        raise ExceptionGroup("the controller ended", [failed]) from failed
