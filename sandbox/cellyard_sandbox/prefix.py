"""A prepared environment of conda's, where one is mounted: it brings an interpreter, on which the kernel runs.

The agent stays on the image's, and so does a kernel without such an environment. Imported at every interpreter's start
(environment): nothing but `os` and `sys` is needed.
"""

from __future__ import annotations

import os
import sys

PLACE = "/opt/environment"
"""Where a prepared environment is mounted."""


def is_prefix(place: str = PLACE) -> bool:
    """Whether that is an environment of conda's, and no folder of modules."""
    return os.path.isdir(f"{place}/conda-meta")


def python_command(module: str, *arguments: str) -> list[str]:
    """The command of a Python kernel. `-P`: no file in the home may stand in for a module of the start."""
    if _mounted():
        starts = os.path.join(os.path.dirname(os.path.abspath(__file__)), "brought.py")
        return [f"{PLACE}/bin/python", "-P", starts, module, *arguments]
    return [sys.executable, "-P", "-m", module, *arguments]


def show_programs() -> None:
    """Conda's packages bring programs too: sets the variables by which kernels, and commands beside them, find them."""
    if _mounted():
        os.environ["PATH"] = f"{PLACE}/bin:{os.environ.get('PATH', os.defpath)}"
        os.environ["CONDA_PREFIX"] = PLACE


def _mounted() -> bool:
    """Only containers have mounts there, and the agent is their first process."""
    return os.getpid() == 1 and is_prefix()
