"""The agent's program: `python -m cellyard_sandbox [--link PATH] [--home DIR] [--scratch DIR]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path


def main() -> int:
    """Runs the agent until it ends."""
    options = _arguments()
    home, scratch = options.home.resolve(), options.scratch.resolve()
    # Nothing that lies in the home may stand in for a module of the agent.
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != home]
    sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio would load it: 3 MB for nothing
    import asyncio

    from cellyard_sandbox.agent import Agent
    from cellyard_sandbox.prefix import show_programs

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    os.chdir(home)
    show_programs()

    async def run() -> None:
        await Agent(options.link, home, scratch, alone=os.getpid() == 1).run()

    asyncio.run(run())
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cellyard_sandbox", description="Hosts the kernel of a sandbox.")
    parser.add_argument("--link", default="/run/cellyard/agent.sock", help="the link's socket")
    parser.add_argument("--home", type=Path, default=Path("/home/sandbox"), help="the kernel's folder")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="emptied when the kernel restarts")
    options = parser.parse_args()
    if len(os.fsencode(options.link)) > 107:
        parser.error("the path of the link's socket is longer than 107 bytes")
    return options


if __name__ == "__main__":
    sys.exit(main())
