"""Kernels as Jupyter's front ends start them: real controllers and sandboxes, kernelspecs as `install` writes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller_process import Process
from tests.e2e.jupyter.front_end import FrontEnd

POOL = {"CELLYARD_POOL__SIZE": "1"}


@pytest.fixture(scope="package")
def service(built_image: str) -> Iterator[Process]:
    """A controller for all tests here, which front ends find by the kernelspecs `cellyard-python`, `cellyard-deno`."""
    folder = Path(tempfile.mkdtemp(prefix="cy"))
    process = Process(folder)
    try:
        process.start(env=POOL)
        with pytest.MonkeyPatch.context() as patch:
            install(folder, "--endpoint", process.endpoint)
            patch.setenv("JUPYTER_PATH", str(folder / "jupyter" / "share" / "jupyter"))
            for name in ("CONFIG", "DATA", "RUNTIME"):
                patch.setenv(f"JUPYTER_{name}_DIR", str(folder / "own" / name.lower()))
            yield process
    finally:
        process.close()
        shutil.rmtree(folder, ignore_errors=True)


def install(folder: Path, *flags: str) -> None:
    """Writes kernelspecs below a folder."""
    command = [sys.executable, "-m", "cellyard.cli", "jupyter", "install", "--prefix", str(folder / "jupyter"), *flags]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture
def front_end(service: Process) -> Iterator[FrontEnd]:
    """A client with a kernel of its own."""
    front_end = FrontEnd("cellyard-python")
    yield front_end
    front_end.close()
