"""Magics that need a terminal elsewhere: %clear, %less, %more, %man, %edit."""

from __future__ import annotations

from typing import Any

from IPython.core import page
from IPython.core.error import UsageError


def register(shell: Any) -> None:
    """Lets cells of this shell use them."""

    def clear(line: str) -> None:
        """Clears what the cell has shown."""
        shell.display_pub.clear_output()

    def less(line: str) -> None:
        """Pages a file; Python files in colours."""
        if not line:
            raise UsageError("%less needs the name of a file")
        with open(line, encoding="utf-8", errors="replace") as file:
            text = file.read()
        page.page(shell.pycolorize(text) if line.endswith(".py") else text)

    def man(line: str) -> None:
        """Pages the page of a manual."""
        page.page(shell.getoutput(f"man {line} | col -b", split=False))

    def edit(line: str) -> None:
        """Tells that there is no editor here."""
        raise UsageError("%edit: there is no editor here")

    for magic in (clear, less, man, edit):
        shell.register_magic_function(magic)
    shell.magics_manager.register_alias("more", "less")
    shell.magics_manager.register_alias("ed", "edit")
