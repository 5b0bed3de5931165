"""gRPC does not survive a fork: a child that touches what its parent opened hangs or crashes.

So a child of a process that has used gRPC gets a clear error instead. The exception: gRPC's own fork support,
switched on by GRPC_ENABLE_FORK_SUPPORT=1 before the interpreter started, makes fresh channels work in children,
as long as neither side uses asyncio.
"""

from __future__ import annotations

import importlib
import os
import sys

from cellyard.errors import ControllerUnavailable

VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"

# One fact about the process, not about any object in it: where and how gRPC was used first.
_used: dict[str, int] = {}


def load_grpc() -> None:
    """Imports gRPC without its half of a fork support.

    Left to its default it restarts threads in children without what they need, which crashes children that never
    touch it (seen: one in three below an asyncio client, on a busy machine). It reads the variable once, when it is
    imported. Whoever has set the variable, or imported gRPC already, has decided.
    """
    if "grpc" in sys.modules or VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = "0"
    try:
        importlib.import_module("grpc")
    finally:
        del os.environ[VARIABLE]


def check(flavour: str) -> None:
    """Notes that gRPC is used now. Raises ControllerUnavailable in a child of a process that has used it."""
    pid = os.getpid()
    foreign = {kind for kind, owner in _used.items() if owner != pid}
    if foreign and not (foreign == {"sync"} and flavour == "sync" and _survives()):
        raise ControllerUnavailable(
            "this process was forked from one that had already connected to a controller, and gRPC does not"
            " survive that: connect in the child only, or start it with multiprocessing's 'spawn' method"
        )
    _used[flavour] = pid


def _survives() -> bool:
    return os.environ.get(VARIABLE, "").lower() in ("1", "true", "yes")
