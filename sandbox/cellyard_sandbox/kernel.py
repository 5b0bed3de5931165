"""The process of the Python kernel: `python -m cellyard_sandbox.kernel CONNECTION_FILE AGENT_PID`."""

from __future__ import annotations

import sys
from pathlib import Path

from cellyard_sandbox.processes import die_with


def main() -> None:
    """Becomes a kernel; returns when it has ended."""
    connection_file, agent = sys.argv[1], int(sys.argv[2])
    die_with(agent)
    _be_killed_first()
    # debugpy takes 30 MB and cannot work here (no ptrace). Cells may still import it.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    from cellyard_sandbox.ipython import KernelApp

    app = KernelApp.instance(connection_file=connection_file)
    app.initialize([])
    del sys.modules["debugpy"]
    app.start()


def _be_killed_first() -> None:
    """Where memory runs out, the kernel goes before the agent, which can then tell what happened."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    except OSError:
        pass


if __name__ == "__main__":
    main()
