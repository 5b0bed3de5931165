"""What a token's scope has to be for each method. A method that is not named here needs `full`."""

from __future__ import annotations

from collections.abc import Mapping

from cellyard_controller.tenants.tokens import Scope

_READ = {
    "Sessions": ("Hello", "Attach", "Close"),
    "Notebooks": ("GetCell", "ListCells", "GetMetadata", "Export", "Watch", "List"),
    "Executions": ("Attach", "Get", "List", "ReadBlob"),
    "Kernels": ("Get",),
    "Sandboxes": ("GetCapabilities", "List", "Watch"),
    "Tenants": ("Get", "GetUsage"),
    "Workflows": ("List", "Get", "Search"),
    "Artifacts": ("List", "Get", "Read"),
    "Reflection": ("ServerReflectionInfo",),
}
_RUN = {
    "Notebooks": (
        "CreateCell",
        "SetSource",
        "DeleteCell",
        "MoveCell",
        "SpliceSource",
        "SetCellMetadata",
        "SetCellType",
        "ClearOutputs",
        "SetMetadata",
        "SetLabels",
        "Import",
        "Sync",
    ),
    "Executions": ("Execute", "Enqueue", "Cancel", "Answer"),
    # Completion and inspection have the kernel evaluate things, and its history is what ran, whoever ran it.
    "Kernels": (
        "Start",
        "Shutdown",
        "Interrupt",
        "Restart",
        "Extend",
        "Complete",
        "Inspect",
        "History",
        "IsComplete",
        "Info",
        "SendComm",
        "Install",
        "Uninstall",
        "ListInstalled",
    ),
    "Files": ("Upload", "Download", "List", "Remove"),
    "Processes": ("Exec",),
    # Code that runs may do all of this too.
    "Workflows": ("Put", "Remove"),
    "Artifacts": ("Write", "Remove"),
}
_FULL = {
    "Notebooks": ("Delete",),
    "Sandboxes": ("Stop", "ListPools"),
    # The operator's, whose calls need no token at all.
    "Nodes": ("List", "Drain", "Resume"),
    "Tenants": ("Create", "List", "SetQuotas", "IssueToken", "ListTokens", "Revoke"),
}
_BY_SCOPE: Mapping[Scope, Mapping[str, tuple[str, ...]]] = {Scope.READ: _READ, Scope.RUN: _RUN, Scope.FULL: _FULL}

NEEDED: Mapping[str, Scope] = {
    f"{service}.{method}": scope
    for scope, services in _BY_SCOPE.items()
    for service, methods in services.items()
    for method in methods
}
"""By the name of service and method: `Notebooks.CreateCell`."""


def needed(method: str) -> Scope:
    """The scope that a method needs."""
    return NEEDED.get(method, Scope.FULL)
