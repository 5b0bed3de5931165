"""What `cellyard run` is given: Python code or a notebook, from a file or from stdin, and files that go along."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellyard.cli import outcome

MAX_NOTEBOOK = 32 * 1024 * 1024
MAX_FILES = 10 * 1024 * 1024
SKIP, MAY_RAISE = "skip-execution", "raises-exception"


@dataclass
class Part:
    """A piece of code to run, and the notebook's cell that it is, if it is one."""

    source: str
    number: int
    may_raise: bool = False
    cell: Any = None


@dataclass
class Source:
    """Everything to run, in order."""

    name: str
    parts: list[Part]
    notebook: Any = None
    """nbformat's notebook, None for plain code."""
    kernel: str = ""
    """What the notebook asks for: "python", "deno", or empty."""
    files: dict[str, bytes] = field(default_factory=dict)


def read(name: str) -> Source:
    """The source under a name, `-` for stdin. Ends the command where it is missing or is nothing that can run."""
    data = _read(name)
    if name.endswith(".ipynb") or (name == "-" and _looks_like_notebook(data)):
        return _notebook(name, data)
    try:
        return Source(name, [Part(data.decode("utf-8-sig"), 1)])
    except UnicodeDecodeError:
        outcome.end(outcome.USAGE, f"{name} is no text in UTF-8: a .py file, a notebook (.ipynb) or - is expected")


def beside(notebook: Path, out: Path | None, *, tell: bool = True) -> dict[str, bytes]:
    """The plain files beside a notebook, as far as they fit; says which go along."""
    left_out = {notebook.resolve(), *([out.resolve()] if out else [])}
    files, skipped = plain_files(notebook.resolve().parent, left_out)
    if files and tell:
        outcome.say(f"files that go along: {', '.join(files)} (--no-files sends none)")
    if skipped:
        outcome.say(f"left out, unreadable or past {MAX_FILES // 2**20} MiB in all: {', '.join(skipped)}")
    return files


def plain_files(folder: Path, left_out: Collection[Path] = ()) -> tuple[dict[str, bytes], list[str]]:
    """The plain files of a folder, as far as they fit, and the names of those that do not or cannot be read."""
    files: dict[str, bytes] = {}
    skipped: list[str] = []
    room = MAX_FILES
    for path in sorted(folder.iterdir()):
        info = path.lstat()
        if path.name.startswith(".") or path in left_out or not stat.S_ISREG(info.st_mode):
            continue
        if info.st_size > room:
            skipped.append(path.name)
            continue
        try:
            files[path.name] = path.read_bytes()
        except OSError:
            skipped.append(path.name)
            continue
        room -= len(files[path.name])
    return files, skipped


def chosen(paths: list[Path]) -> dict[str, bytes]:
    """The files that the user named."""
    files: dict[str, bytes] = {}
    for path in paths:
        if path.name in files:
            outcome.end(outcome.USAGE, f"two files are named {path.name}: they would stand in one folder")
        try:
            files[path.name] = path.read_bytes()
        except OSError as error:
            outcome.end(outcome.USAGE, f"{path} cannot be read: {error.strerror}")
    if sum(map(len, files.values())) > MAX_FILES:
        outcome.end(outcome.USAGE, f"the files have more than {MAX_FILES // 2**20} MiB in all")
    return files


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_NOTEBOOK + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_NOTEBOOK + 1)
    except OSError as error:
        outcome.end(outcome.USAGE, f"{name} cannot be read: {error.strerror}")
    if len(data) > MAX_NOTEBOOK:
        outcome.end(outcome.USAGE, f"{name} is larger than {MAX_NOTEBOOK // 2**20} MiB: more cannot be run")
    return data


def _looks_like_notebook(data: bytes) -> bool:
    """Whether it is JSON with an nbformat; Python code may begin with a brace too."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "nbformat" in raw


def _notebook(name: str, data: bytes) -> Source:
    import nbformat

    if not data.strip():
        outcome.end(outcome.USAGE, f"{name} is empty: no notebook")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        outcome.end(outcome.USAGE, f"{name} is no notebook, because it is no JSON: {error}")
    version = raw.get("nbformat") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        outcome.end(outcome.USAGE, f"{name} is JSON, but no notebook: it has no nbformat")
    if not 1 <= version <= 4:
        outcome.end(outcome.USAGE, f"{name} has nbformat {version}: this version reads 1 to 4")
    try:
        notebook = nbformat.reads(json.dumps(raw), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises what it likes for what is no notebook
        outcome.end(outcome.USAGE, f"{name} is no valid notebook: {str(error).strip().splitlines()[0]}")
    parts = [
        Part(cell.source, number, MAY_RAISE in cell.metadata.get("tags", ()), cell)
        for number, cell in enumerate(notebook.cells, start=1)
        if cell.cell_type == "code" and SKIP not in cell.metadata.get("tags", ()) and cell.source.strip()
    ]
    return Source(name, parts, notebook, _kernel_of(notebook))


def _kernel_of(notebook: Any) -> str:
    """The kernel that a notebook asks for: "python", "deno", empty for none, else the name that it gives."""
    spec = notebook.metadata.get("kernelspec", {})
    language = spec.get("language") or notebook.metadata.get("language_info", {}).get("name") or ""
    name = spec.get("name") or ""
    if "deno" in name.lower() or language.lower() == "typescript":
        return "deno"
    if language.lower() in ("python", "ipython") or (not language and name.lower().startswith("python")):
        return "python"
    return str(name or language)
