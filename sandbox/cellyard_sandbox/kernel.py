"""The process of ipykernel's Python kernel: `python -m cellyard_sandbox.kernel CONNECTION_FILE AGENT_PID`."""

from __future__ import annotations

import sys

from cellyard_sandbox.processes import be_killed_first, die_with


def main() -> None:
    """Becomes a kernel; returns when it has ended."""
    connection_file, agent = sys.argv[1], int(sys.argv[2])
    die_with(agent)
    be_killed_first()
    # debugpy takes 30 MB and cannot work here (no ptrace). Cells may still import it.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    from cellyard_sandbox.ipython import KernelApp

    app = KernelApp.instance(connection_file=connection_file)
    app.initialize([])
    del sys.modules["debugpy"]
    app.start()


if __name__ == "__main__":
    main()
