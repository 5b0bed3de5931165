"""The controller: keeps notebooks and executions, and schedules them to sandboxes."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cellyard")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
