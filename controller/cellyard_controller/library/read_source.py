"""The reader's process: one workflow as JSON on stdin, what was found in it on stdout.

Arguments: the controller's process id, seconds of processor time, bytes of memory. Imports as little as it can.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys

from cellyard_proto import values
from cellyard_proto.codemode import workflows
from cellyard_proto.codemode.errors import WorkflowValidationError

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Reads one."""
    controller, seconds, memory = (int(argument) for argument in sys.argv[1:])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        return 1
    if os.getppid() != controller:
        return 1  # it died before the kernel knew whom to tell
    for name, limit in {"CPU": seconds, "AS": memory, "CORE": 0, "FSIZE": 0, "NOFILE": 16}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    name, source, description = json.load(sys.stdin.buffer)
    try:
        summary = workflows.parse(name, source, description).summary()
        del summary["name"]
        found = {"summary": values.encode(summary)}
    except (WorkflowValidationError, values.TooLarge) as wrong:
        found = {"invalid": str(wrong)}
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
