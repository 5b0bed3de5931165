"""Fetches the wheels of a lock, so that an image can be built without any network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from cellyard_controller.runtimes import USUAL_PYTHON, RuntimeFailed
from cellyard_controller.runtimes.docker import bases

_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}


def cache_folder() -> Path:
    """Where things fetched for images are kept: XDG's folder for caches."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "cellyard"


def fetch(
    locks: Iterable[Path],
    machine: str,
    report: Callable[[str], None],
    *,
    family: str = "python",
    python: str = USUAL_PYTHON,
    glibc: int = bases.RELEASES[USUAL_PYTHON].glibc,
    index: str = "",
) -> Path:
    """The folder with every wheel that the locks name, for the engine's machine (`amd64`, `arm64`).

    Fetches nothing where a folder for these very locks is there. One folder of each family is kept, the last.
    `python` is the image's, as 3.11, `glibc` the minor version of its C library; `index` a URL in place of the index
    that pip knows. Raises RuntimeFailed.
    """
    if machine not in _MACHINES:
        raise RuntimeFailed("image_missing", f"no wheels are known for the engine's machine type {machine}")
    texts = [lock.read_bytes() for lock in locks]
    key = hashlib.sha256(b"\0".join([machine.encode(), *texts])).hexdigest()[:12]
    folder = cache_folder() / "wheels" / family / key
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    report(f"fetching the packages of the {family} image (may be tens of MiB)")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-", ignore_cleanup_errors=True) as part:
        for lock in locks:
            _download(lock, _MACHINES[machine], Path(part), python, glibc, index)
        for old in folder.parent.iterdir():
            if not old.name.startswith(".part-"):
                shutil.rmtree(old, ignore_errors=True)
        Path(part).chmod(0o755)
        Path(part).rename(folder)
    return folder


def _download(lock: Path, machine: str, target: Path, python: str, glibc: int, index: str) -> None:
    # pip takes a platform literally: an older glibc's tag has to be named too.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, 4, -1)]
    command = [_python_with_pip(), "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}", f"manylinux1_{machine}")]
    command += ["--dest", str(target), "-r", str(lock)]
    # Not an argument: those are for every user of the machine to see.
    env = {**os.environ, "PIP_INDEX_URL": index} if index else None
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeFailed(
            "image_missing",
            "the image's Python packages could not be fetched in 15 minutes: is the package index slow?",
        ) from None
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise RuntimeFailed(
            "image_missing",
            f"the image's Python packages are fetched with pip, which {sys.executable} has not: "
            f"add it with `{sys.executable} -m ensurepip`",
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    why = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
    raise RuntimeFailed(
        "image_missing",
        f"the image's Python packages could not be fetched: {why}. "
        "Check that `pip download` reaches a package index from here",
    )


def _python_with_pip() -> str:
    """An interpreter that has pip: this one, or else one of an environment that is made for that, once.

    Environments that uv makes have no pip. The one that is made here takes it from the interpreter itself, not from an
    index. Where that is not possible it is this one after all, and its error says what is missing.
    """
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    home = cache_folder() / f"pip-{sys.version_info.major}.{sys.version_info.minor}"
    python = home / "bin" / "python"
    if python.exists():
        return str(python)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".part-", ignore_cleanup_errors=True) as part:
        command = [sys.executable, "-m", "venv", str(Path(part, "venv"))]
        done = subprocess.run(command, capture_output=True, timeout=300, check=False)
        if done.returncode != 0:
            return sys.executable
        try:
            Path(part, "venv").rename(home)
        except OSError:
            pass  # somebody else was faster
    return str(python)
