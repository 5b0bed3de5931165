"""Values for the shell's completion: from the running controller, quickly, and nothing at all where that goes wrong.

A controller is never started for it. What a notebook is called is up to whoever made it, and what is completed stands
on somebody's command line: only ids that mean nothing to a shell are offered.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cellyard import Client

WITHIN_S = 2.0
"""So long a completion may take, unless CELLYARD_COMPLETION_TIMEOUT says otherwise; then there is none."""

_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@%+=,/-]*")
_NETWORKS = ("none", "allowlist", "open")
_ENV_SOURCES = (
    "auto",
    "uv:prewarmed",
    "uv:inline",
    "uv:pyproject",
    "conda:prewarmed",
    "conda:inline",
    "conda:env_yml",
    "pixi:toml",
    "deno",
)


def notebooks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of notebooks."""
    return _asked(ctx, lambda client: [each.notebook_id for each in client.list_notebooks(limit=1000)])


def sandboxes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of sandboxes."""
    return _asked(ctx, lambda client: [each.sandbox_id for each in client.list_sandboxes()])


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of nodes."""
    return _asked(ctx, lambda client: [each.name for each in client.list_nodes()])


def executions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of executions: of the notebook that stands on the line, else of the notebooks that changed last."""

    def ask(client: Client) -> list[str]:
        chosen = ctx.params.get("notebook")
        found = [] if chosen else client.list_notebooks(limit=1000)
        found.sort(key=lambda each: each.changed_at.timestamp() if each.changed_at else 0.0, reverse=True)
        ids = [chosen] if chosen else [each.notebook_id for each in found[:5]]
        return [each.execution_id for notebook_id in ids for each in client.list_executions(notebook_id, 20)]

    return _asked(ctx, ask)


def templates(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of templates: those that pools and sandboxes show, and the default one."""

    def ask(client: Client) -> list[str]:
        from cellyard import CellyardError

        found = {each.template for each in client.list_sandboxes()}
        try:
            found |= {each.template for each in client.list_pools()}
        except CellyardError:
            pass  # pools are the operator's to see
        return sorted(found | {"default"})

    return _asked(ctx, ask) or ["default"]


def runtimes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runtimes that the controller has, or all there are."""
    return _asked(ctx, lambda client: list(client.server(start=False).runtimes)) or ["docker", "process"]


def kernels() -> list[str]:
    """Types of kernels."""
    return ["python", "deno"]


def env_sources() -> list[str]:
    """Environments."""
    return list(_ENV_SOURCES)


def networks() -> list[str]:
    """Network policies."""
    return list(_NETWORKS)


def capabilities(ctx: typer.Context, incomplete: str) -> list[str]:
    """Capabilities that the controller knows."""
    return _asked(ctx, lambda client: [each.name for each in client.capabilities()])


def _asked(ctx: typer.Context, ask: Callable[[Client], list[str]]) -> list[str]:
    try:
        with _in_time():
            from cellyard import Client

            with Client(ctx.params.get("endpoint"), ctx.params.get("token")) as client:
                client.server(start=False)
                return [each for each in ask(client) if _HARMLESS.fullmatch(each)]
    except Exception:  # whatever it is: somebody pressed a key, and an error would land in the middle of their line
        return []


@contextmanager
def _in_time() -> Iterator[None]:
    def over(_number: int, _frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, float(os.environ.get("CELLYARD_COMPLETION_TIMEOUT") or WITHIN_S))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
