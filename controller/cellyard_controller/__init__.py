"""The controller: keeps notebooks and executions, and schedules them to sandboxes."""

import os
from importlib.metadata import PackageNotFoundError, version

# Before gRPC is imported: its fork handlers crash children that other libraries fork, and no child uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

try:
    __version__ = version("cellyard")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
