"""The process of the Python kernel: `python -m cellyard_sandbox.python_kernel AGENT_PID FOLDER DESCRIPTOR...`.

The descriptors are the socket, and both ends of the pipes for stdout and stderr.
"""

from __future__ import annotations

import os
import sys

from cellyard_sandbox.processes import be_killed_first, die_with


def main() -> None:
    """Becomes a kernel; returns when it has ended."""
    agent, folder = int(sys.argv[1]), sys.argv[2]
    link, stdout, stdout_end, stderr, stderr_end = map(int, sys.argv[3:])
    sys.argv[:] = [""]  # as in an interactive Python
    die_with(agent)
    be_killed_first()
    from cellyard_sandbox.python_kernel.connection import Connection
    from cellyard_sandbox.python_kernel.imports import AfterImport, after_debugger, after_pdb
    from cellyard_sandbox.python_kernel.interrupts import Interrupts
    from cellyard_sandbox.python_kernel.kernel import Kernel
    from cellyard_sandbox.python_kernel.parents import Parents
    from cellyard_sandbox.python_kernel.streams import Pump, Stream

    sys.path.append("")  # modules of the user's own; last, so that none of them stands in for another
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    connection, parents, interrupts = Connection(link), Parents(), Interrupts()
    interrupts.ignore()
    kernel = Kernel(connection, parents, interrupts, os.path.join(folder, "ipython"))
    AfterImport(
        {
            "pdb": after_pdb,
            "IPython.core.debugger": after_debugger,
            "ipykernel.comm.comm": kernel.comms.take_over,
            "ipykernel.ipkernel": lambda module: kernel.comms.install(),
        }
    ).install()
    pump = Pump(connection, parents, interrupts)
    streams = [Stream("stdout", (stdout, stdout_end), pump), Stream("stderr", (stderr, stderr_end), pump)]
    sys.stdout, sys.stderr = streams  # until here a failure is told to the agent as the reason of the start's
    pump.start(streams)
    kernel.run()
    for stream in streams:
        stream.flush()


if __name__ == "__main__":
    main()
