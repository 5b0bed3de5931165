"""What `--help` says beyond arguments and options: examples, exit codes, and the pages that concern all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperGroup

EXIT_CODES = {
    0: "done",
    1: "the code that ran failed",
    2: "usage: arguments, files, ids that do not exist",
    3: "no controller, or it is not ready",
    4: "refused: a capability, a quota, an environment, who asks",
    124: "timed out",
    130: "interrupted",
}
_OFFLINE_CODES = {**EXIT_CODES, 1: "it could not be done", 3: "no controller or container engine", 4: "refused"}

EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "run": [
        ("cellyard run train.py", "a script"),
        ("cellyard run report.ipynb --out report.executed.ipynb", "a notebook, with its outputs"),
        ("echo 'print(6 * 7)' | cellyard run -", "code from a pipe"),
        ("cellyard run job.ipynb --timeout 60 --require network_isolation", "limits that must hold"),
        ("cellyard run job.py --files data.csv model.bin --json", "with files, as events for a program"),
        ("cellyard run step.py --notebook nightly", "in a notebook that stays"),
    ],
    "shell": [
        ("cellyard shell", "a prompt in a sandbox that goes when you leave"),
        ("cellyard shell --notebook nightly", "in a notebook that is there, or stays"),
        ("cellyard shell --kernel deno", "TypeScript"),
    ],
    "mcp": [
        ("cellyard mcp", "over stdio: what a client's configuration names"),
        ("cellyard mcp --http 127.0.0.1:8000 --http-token-file mcp.token", "over HTTP"),
        ("cellyard mcp --notebook nightly --require network_isolation", "in a notebook that stays"),
    ],
    "jupyter": [("cellyard jupyter install --user", "")],
    "jupyter install": [
        ("cellyard jupyter install --user", "Python and Deno, for this user"),
        ("cellyard jupyter install --kernel python --name science --template science", "of another template"),
    ],
    "jupyter list": [("cellyard jupyter list --json", "")],
    "jupyter remove": [("cellyard jupyter remove cellyard-deno", "")],
    "status": [("cellyard status", ""), ("cellyard status --json", "")],
    "stop": [("cellyard stop", "")],
    "help": [("cellyard help run", ""), ("cellyard help environment", "")],
    "notebooks": [("cellyard notebooks list", ""), ("cellyard notebooks show nightly", "")],
    "notebooks list": [("cellyard notebooks list --label team=data", ""), ("cellyard notebooks list --json", "")],
    "notebooks label": [("cellyard notebooks label nightly team=data old=", "sets team, removes old")],
    "notebooks show": [("cellyard notebooks show nightly", ""), ("cellyard notebooks show nightly --json", "")],
    "notebooks export": [
        ("cellyard notebooks export nightly nightly.ipynb", ""),
        ("cellyard notebooks export nightly - | jupyter nbconvert --stdin --to html", ""),
    ],
    "notebooks import": [("cellyard notebooks import nightly nightly.ipynb", "")],
    "notebooks delete": [("cellyard notebooks delete nightly", "")],
    "notebooks watch": [("cellyard notebooks watch nightly --json", "")],
    "executions": [("cellyard executions list --notebook nightly", "")],
    "executions list": [("cellyard executions list --notebook nightly --limit 5", "")],
    "executions show": [("cellyard executions show exec-1 --notebook nightly", "")],
    "executions attach": [("cellyard executions attach exec-1 --notebook nightly", "")],
    "executions cancel": [("cellyard executions cancel exec-1 --notebook nightly", "")],
    "sandboxes": [("cellyard sandboxes list", "")],
    "sandboxes list": [("cellyard sandboxes list", ""), ("cellyard sandboxes list --json", "")],
    "sandboxes watch": [("cellyard sandboxes watch --json", "")],
    "sandboxes stop": [("cellyard sandboxes stop sb-1", "")],
    "pool": [("cellyard pool status", "")],
    "pool status": [("cellyard pool status --json", "")],
    "nodes": [("cellyard nodes list", "")],
    "nodes list": [("cellyard nodes list --json", "")],
    "nodes drain": [("cellyard nodes drain machine-3", "")],
    "nodes resume": [("cellyard nodes resume machine-3", "")],
    "store": [("cellyard store list ./memory", "")],
    "store list": [("cellyard store list ./memory --type workflows", ""), ("cellyard store list env:REDIS_URL", "")],
    "store migrate": [
        (
            "cellyard store migrate --from /srv/cellyard --to postgresql://cellyard@db/cellyard --config new.toml",
            "into PostgreSQL; a new controller begins on new.toml",
        )
    ],
    "store diff": [("cellyard store diff ./memory env:REDIS_URL --workspace team", "")],
    "store copy": [("cellyard store copy ./memory env:REDIS_URL --dry-run", "")],
    "serve": [
        ("cellyard serve", "for this user, on the socket that commands look for"),
        ("cellyard serve --data /srv/cellyard --listen unix:/run/cellyard.sock --pool 4", ""),
        ("cellyard serve --listen 0.0.0.0:7430 --tls-cert chain.pem --tls-key key.pem", "for other machines"),
        ("cellyard serve --config cellyard.toml --on-stop keep", "in a service unit"),
    ],
    "backup": [("cellyard backup /srv/backups/cellyard-today", "of the running controller, or of one that has ended")],
    "restore": [("cellyard restore /srv/backups/cellyard-today --data /srv/cellyard", "")],
    "console": [("cellyard console", "")],
    "doctor": [("cellyard doctor", ""), ("cellyard doctor --json", "")],
    "tenants": [("cellyard tenants create alice --quota sandboxes=4", "")],
    "tenants create": [
        ("cellyard tenants create alice", "prints the token, this once"),
        ("cellyard tenants create bob --quota sandboxes=4 --quota memory=8GiB --expires 90d", ""),
    ],
    "tenants list": [("cellyard tenants list --json", "")],
    "tenants quota": [("cellyard tenants quota alice", ""), ("cellyard tenants quota alice queued=100 rate=50", "")],
    "tenants issue": [("cellyard tenants issue alice --scope read --name dashboard", "")],
    "tenants tokens": [("cellyard tenants tokens alice", "")],
    "tenants revoke": [("cellyard tenants revoke alice", ""), ("cellyard tenants revoke alice --token d4568a11", "")],
    "tenants usage": [("cellyard tenants usage alice --since 2024-02-01", "")],
    "audit": [("cellyard audit --refused --since 12h", ""), ("cellyard audit --tenant alice --follow --json", "")],
    "images": [("cellyard images build", "")],
    "images build": [
        ("cellyard images build", "what the default templates need"),
        ("cellyard images build --python 3.13", "with another interpreter, too"),
        ("cellyard images build science --requirements requirements.txt", "one of your own"),
    ],
    "images list": [("cellyard images list", "")],
    "images remove": [("cellyard images remove science", "")],
    "config": [("cellyard config show", "")],
    "config show": [("cellyard config show --json", ""), ("cellyard config show --config cellyard.toml", "")],
}
"""By command, what to type and why. Ids in them stand for whatever there is."""

_OWN_CODES = {"status": (0, 2, 3, 4), "stop": (0, 3), "help": (0, 2), "doctor": (0, 2, 3), "serve": (0, 2, 3)}
_OWN_CODES |= {"jupyter": (0, 2), "jupyter install": (0, 2), "jupyter list": (0, 2), "jupyter remove": (0, 2)}
_ALL_CODES = ("run", "executions attach")
_OFFLINE = (
    *("help", "stop", "store", "jupyter"),
    *("serve", "doctor", "tenants", "audit", "images", "config", "backup", "restore"),
    "console",
)

_CODES_TEXT = "\n".join(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES.items())

TOPICS = {
    "environment": """Environment variables

  CELLYARD_ENDPOINT      the controller, unix:PATH or HOST:PORT; --endpoint comes first
  RUNTIMED_SOCKET_PATH   a socket's path, where CELLYARD_ENDPOINT is not set
  CELLYARD_TOKEN         the tenant's token, for an endpoint that was named; --token comes first
  CELLYARD_CA            the authority of a HOST:PORT's certificate: a file (PEM), or system
  CELLYARD_CLIENT_CERT, CELLYARD_CLIENT_KEY
                         what proves the client there
  CELLYARD_COMPLETION_TIMEOUT
                         seconds that completing an id in a shell may take; 2
  XDG_RUNTIME_DIR        the user's own controller listens in cellyard/ there
  XDG_STATE_HOME         its data, its log and the shell's history are in cellyard/ there
                         (~/.local/state)
  NO_COLOR, TERM, COLUMNS
                         honoured where something is drawn

A controller's configuration: CELLYARD_ and a setting's name, with __ for a dot, as in
CELLYARD_POOL__SIZE for pool.size. `cellyard config show` lists them with their sources.""",
    "exit-codes": f"""Exit codes of all commands

{_CODES_TEXT}

`store diff` is as diff(1): 1 where something differs.""",
    "files": """Files

  XDG_RUNTIME_DIR/cellyard/controller.sock   the user's own controller; without XDG_RUNTIME_DIR
                                             run/controller.sock in its data folder
  ~/.local/state/cellyard/                   its data folder (XDG_STATE_HOME), 0700
      cellyard.sqlite, blobs/                notebooks, executions, large outputs
      controller.log                         its log, where a command has started it
      audit.jsonl                            who did what
      shell_history                          what was typed into `cellyard shell`, 0600
  ~/.cache/cellyard/                         packages fetched for images (XDG_CACHE_HOME)

Another data folder: --data, CELLYARD_DATA, or data in a configuration file (--config,
CELLYARD_CONFIG).""",
}

ROOT = """\b
Examples:
  cellyard run report.ipynb --out report.executed.ipynb
  cellyard shell
  cellyard notebooks list

Every command has a page: cellyard COMMAND --help. What concerns all of them: cellyard help environment, cellyard help
exit-codes, cellyard help files."""


def added(command: Any, name: str) -> Any:
    """The command, or the group with all of its commands, with what this manual has for it."""
    if command.epilog is None:
        command.epilog = epilog(name)
    for each in command.params:
        if each.param_type_name == "option" and each.metavar is None and not each.is_flag:
            each.metavar = _kind(each)
    if isinstance(command, TyperGroup):
        for word, each in command.commands.items():
            added(each, f"{name} {word}")
    return command


def _kind(option: Any) -> str | None:
    """What an option takes, in capitals as everywhere; None for one of a list, which typer shows itself."""
    kind = getattr(option, "type_descriptor", None)
    if kind is None or kind.is_choice:
        return None
    names: dict[Any, str] = {Path: "PATH", int: "N", float: "NUMBER", str: "TEXT"}
    return names.get(kind.annotation, "TEXT")


def epilog(name: str) -> str | None:
    """The end of a command's page; None where there is none for it."""
    examples = EXAMPLES.get(name)
    if examples is None:
        return None
    lines = ["\b", "Examples:"]
    for command, why in examples:
        lines += [f"  {command}"] if not why else [f"  {command}", f"      {why}"]
    offline = name.split()[0] in _OFFLINE
    meanings = _OFFLINE_CODES if offline else EXIT_CODES
    said = ", ".join(f"{code} {meanings[code].split(':')[0]}" for code in _codes(name))
    parts = ["\n".join(lines), f"Exit codes: {said}."]
    if not offline:
        parts.append("Environment: CELLYARD_ENDPOINT, CELLYARD_TOKEN; cellyard help environment has the rest.")
    return "\n\n".join(parts)


def _codes(name: str) -> tuple[int, ...]:
    if name in _ALL_CODES:
        return tuple(EXIT_CODES)
    if name in _OWN_CODES:
        return _OWN_CODES[name]
    return (0, 1, 2, 3) if name.split()[0] in _OFFLINE else (0, 2, 3, 4)
