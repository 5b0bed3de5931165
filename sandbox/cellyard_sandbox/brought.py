"""Starts a kernel's module on an interpreter that the environment brings: `python -P brought.py MODULE ARGUMENT...`.

That interpreter knows nothing of the image: what runs in the kernel's process (this package and the protocol's) is put
behind all of its own, and everything else that a kernel stands on is the environment's.
"""

import os
import runpy
import sys


def main() -> None:
    """Returns when the kernel has ended."""
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
