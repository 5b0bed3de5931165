"""Packages that sessions of the process runtime share: folders in the user's cache, each made once and never changed.

A folder is found by what it was made from: the interpreter, what that has by itself, and what was asked for. Folders
that nobody uses may be deleted at any time.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cellyard.codemode.executors import installing
from cellyard.errors import CapabilityUnavailable


@dataclass(frozen=True)
class Interpreter:
    """The Python that is to find packages."""

    path: str
    version: str
    """All of it, as `sys.version` has it."""
    packages: Mapping[str, str]
    """What it has by itself: versions by name."""


def root() -> Path:
    """The folder that they are in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cellyard" / "packages"


async def folder(interpreter: Interpreter, wanted: Sequence[str]) -> Path:
    """The folder with these packages and what they need, made where there is none yet.

    Raises EnvironmentFailed for what cannot be had, CapabilityUnavailable where there is no installer, OSError.
    """
    made_from = [interpreter.path, interpreter.version, sorted(interpreter.packages.items()), sorted(wanted)]
    name = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
    place = root() / name
    if await asyncio.to_thread(place.is_dir):
        return place
    command = installing.installer() if wanted else []
    if wanted and (command is None or command[-1] == "pip"):  # pip installs for the Python that it runs on
        raise CapabilityUnavailable("packages for another process need uv: `pip install uv`")
    await asyncio.to_thread(root().mkdir, mode=0o700, parents=True, exist_ok=True)
    new = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=root(), prefix=".new-"))
    try:
        if command:
            await installing.install(command, interpreter.path, wanted, interpreter.packages, new)
        await asyncio.to_thread(_finish, new, place)
    finally:
        await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
    return place


def _finish(new: Path, place: Path) -> None:
    """Puts it in its place, from where on nothing of it changes; whoever was faster made the same."""
    for path in new.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)
    with _locked(root() / ".lock"):
        if not place.exists():
            new.rename(place)
            place.chmod(0o555)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
