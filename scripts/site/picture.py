"""Draws docs/images/make-run.svg: what `make run` really says here, run once for the picture."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "images" / "make-run.svg"
COLUMNS = 110
# Names of images are digests: they would differ with every picture, and say nothing.
LEFT_OUT = re.compile(r"^cellyard-\w+:[0-9a-f]{12}$")


def main() -> None:
    """Runs it as a new user, with a controller of its own, and draws what came."""
    with tempfile.TemporaryDirectory(prefix="cy") as folder:
        state = {"XDG_STATE_HOME": folder, "XDG_RUNTIME_DIR": folder, "COLUMNS": str(COLUMNS)}
        done = subprocess.run(
            ["make", "run"],
            cwd=ROOT,
            env={**os.environ, **state},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
    lines = [line for line in done.stdout.splitlines() if not LEFT_OUT.match(line)]
    with open(os.devnull, "w") as nowhere:
        console = Console(width=COLUMNS, record=True, file=nowhere, force_terminal=True)
        console.print(Text("$ make run", style="bold"))
        for line in lines:
            told, colon, rest = line.partition(": ")
            styled = Text(told + colon, style="green") + Text(rest) if told == "cellyard" else Text.from_ansi(line)
            console.print(styled)
        drawn = console.export_svg(title="make run", unique_id="make-run")
    # The fonts that it names would come from another host; every reader has one of their own.
    drawn = re.sub(r"\s*<!--.*?-->", "", drawn)
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    TARGET.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
