"""Becomes the program that fetches packages, with as few rights as it can do with: run by path, with `-I -S`.

Its argument is JSON: `argv`, `env`, `uid` (null where the controller is not root) and `limits`. The standard library is
all that is imported, while the rights are still the controller's.
"""

import ctypes
import json
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> None:
    """Never returns."""
    order = json.loads(sys.argv[1])
    # Opened before rights are given up: the program may lie where its user cannot go.
    program = os.open(order["argv"][0], os.O_RDONLY | os.O_CLOEXEC)
    for name, limit in order["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(number)
        limit = limit if most < 0 else min(limit, most)
        resource.setrlimit(number, (limit, limit))
    if order["uid"] is not None:
        os.setgroups([])
        os.setresgid(order["uid"], order["uid"], order["uid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the change of user, which takes it back
    if os.getppid() != order["parent"]:
        sys.exit(1)
    os.execve(program, order["argv"], order["env"])


if __name__ == "__main__":
    main()
