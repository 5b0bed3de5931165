"""The reference of errors: each class with what it means, and by which name other languages know it."""

from __future__ import annotations

import inspect
from pathlib import Path

import cellyard
import cellyard.codemode
from cellyard.cli import outcome
from cellyard.errors import CellyardError


def classes(module: object, names: list[str]) -> list[type[BaseException]]:
    """The errors among a module's public names."""
    found = [getattr(module, name) for name in names]
    return [each for each in found if isinstance(each, type) and issubclass(each, BaseException)]


def page() -> str:
    """Markdown."""
    text = Path(__file__).with_name("errors.md").read_text(encoding="utf-8")
    usual = sorted(set(classes(cellyard, cellyard.__all__)) - {CellyardError}, key=lambda each: each.__name__)
    rows = ["| error | reason in the protocol | exit code | said when |", "| --- | --- | --- | --- |"]
    for each in usual:
        assert issubclass(each, CellyardError)
        rows.append(f"| `{each.__name__}` | `{each.reason}` | {outcome.exit_code(each())} | {_meaning(each)} |")
    code_mode = ["| error | is also | said when |", "| --- | --- | --- |"]
    for each in classes(cellyard.codemode, cellyard.codemode.__all__):
        above = next(base for base in each.__mro__[1:] if issubclass(base, CellyardError))
        code_mode.append(f"| `{each.__name__}` | `{above.__name__}` | {_meaning(each)} |")
    return text.replace("ERRORS", "\n".join(rows)).replace("CODE_MODE", "\n".join(code_mode))


def _meaning(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split()).replace("|", "\\|")
