"""Functions that the client which runs this code offers to it: `from cellyard_sandbox import host`.

`host.call("search", "cats", limit=3)` calls one, and so does `host.search("cats", limit=3)`; `await host.acall(...)`
lets other tasks run meanwhile. Arguments and results are data: None, bool, int, float, complex, str, bytes, list,
tuple, dict, set and datetime. Works from any thread, and in programs that a cell starts.
"""

from functools import partial as _partial
from typing import Any as _Any

from cellyard_sandbox.host_client import HostCallError, HostError, HostUnavailable, acall, call

__all__ = ["HostCallError", "HostError", "HostUnavailable", "acall", "call"]


def __getattr__(name: str) -> "_partial[_Any]":
    """The function of this name, whether anybody offers it or not."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _partial(call, name)
