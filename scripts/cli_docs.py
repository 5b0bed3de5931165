"""Writes docs/cli.md from what the commands' own `--help` says; `--check` only compares.

Every page is rendered as on a terminal of 100 columns.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TYPER_USE_RICH"] = "0"  # as the command itself does

import typer
from typer.core import TyperGroup

from cellyard.cli import manual
from cellyard.cli.app import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100

HEAD = """# Command line

<!-- Written by scripts/cli_docs.py from the commands' own help (`make cli-docs`): change that. -->

`pip install cellyard` brings the client's commands, `pip install "cellyard[controller]"` the operator's too. Every
command explains itself: `cellyard COMMAND --help`, or `cellyard help COMMAND`.

- On a terminal lists are tables in its width, with headings, and ages; in a pipe they are aligned columns without
  headings, one thing a line, nothing cut, times in RFC 3339. `--json` is for programs. `NO_COLOR` and `TERM=dumb` are
  honoured.
- What others have named or written (ids, labels, reasons, and what `show` prints of outputs) is printed with control
  characters written out. What code prints comes out as it is with `run`, `shell` and `executions attach`.
- How far a run or a build is stands on the last line of a terminal's stderr, never in a pipe.
- `cellyard --install-completion` lets the shell (bash, zsh, fish) complete commands, options and values: ids come from
  the running controller, within two seconds or not at all; none is started for it.
"""


def rendered() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    top = _context(root, "cellyard", None)
    parts = [HEAD, *(f"```text\n{text}\n```\n" for text in manual.TOPICS.values())]
    for name in root.list_commands(top):
        command = root.resolve_command(top, [name])[1]
        parts += _pages(command, _context(command, name, top), 2)
    return "\n".join(parts)


def _pages(command: Any, context: typer.Context, depth: int) -> Iterator[str]:
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"{'#' * depth} {context.command_path}\n\n```text\n{text}\n```\n"
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            each = command.commands[name]
            yield from _pages(each, _context(each, name, context), depth + 1)


def _context(command: Any, name: str, parent: typer.Context | None) -> typer.Context:
    return typer.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)


def main() -> int:
    """Writes the page, or says that it is not up to date."""
    page = rendered()
    if "--check" in sys.argv[1:]:
        if TARGET.exists() and TARGET.read_text() == page:
            return 0
        print(f"{TARGET.name} is not what the commands say: `make cli-docs` writes it")
        return 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
