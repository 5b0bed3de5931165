"""Programs that are started aside: here on this machine, with a container's paths replaced by the real ones."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from cellyard_controller.runtimes import ENVIRONMENT, SandboxSpec

LINK = "/run/cellyard"


async def run(spec: SandboxSpec, command: Sequence[str]) -> asyncio.subprocess.Process:
    """Starts it. Kernels are not what it can check here: that is for real containers."""
    places = {LINK: str(spec.link_dir), ENVIRONMENT: str(spec.environment)}
    _, *arguments = command
    for place, real in places.items():
        arguments = [each.replace(place, real) for each in arguments]
    home = spec.link_dir / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home)}
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd="/", env=env)


async def end(program: asyncio.subprocess.Process) -> None:
    """Ends it, if it has not ended yet."""
    if program.returncode is None:
        program.kill()
    await program.wait()
