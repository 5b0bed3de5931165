"""Cellyard runs notebook code that nobody trusts in containers.

    import cellyard

    with cellyard.Session() as session:
        print(session.run("1 + 1").value)  # 2

`Session` and `AsyncSession` are the same for threads and for asyncio. What is exported here is imported when it
is first used, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cellyard import _fork, _version

if TYPE_CHECKING:
    from cellyard._async.client import AsyncClient
    from cellyard._async.document import AsyncDocument
    from cellyard._async.session import AsyncSession
    from cellyard._sync.client import Client
    from cellyard._sync.document import Document
    from cellyard._sync.session import Session
    from cellyard.document import DocumentCell, DocumentChange
    from cellyard.endpoint import TLS
    from cellyard.errors import (
        CapabilityUnavailable,
        CellChanged,
        CellNotFound,
        CellyardError,
        ControllerUnavailable,
        EnvironmentFailed,
        ExecutionNotFound,
        ExecutionTimeout,
        InvalidRequest,
        KernelDied,
        KernelMismatch,
        NoKernel,
        NotConnected,
        NotebookNotFound,
        PermissionDenied,
        QuotaExceeded,
        Unauthenticated,
    )
    from cellyard.errors import CellyardError as RuntimedError
    from cellyard.events import (
        Accepted,
        CellRemoved,
        CellUpdated,
        CommSaid,
        DisplayUpdated,
        Event,
        ExecutionEvent,
        Finished,
        HostCalled,
        InputRequested,
        KernelChanged,
        MetadataChanged,
        NotebookEvent,
        OutputCleared,
        OutputEvent,
        Queued,
        Snapshot,
        Started,
        Waiting,
        Warned,
    )
    from cellyard.files import FileInfo
    from cellyard.info import KernelInfo, NodeInfo, NotebookInfo, PoolInfo, SandboxInfo, ServerInfo
    from cellyard.packages import InstallResult, Package, UninstallResult
    from cellyard.processes import ProcessEnded, ProcessEvent, ProcessOutput, ProcessResult, ProcessStarted
    from cellyard.results import (
        Capability,
        Cell,
        Completeness,
        Completion,
        End,
        ExecutionResult,
        HistoryEntry,
        Output,
        Progress,
        Usage,
    )
    from cellyard.tenants import DayOfUsage, IssuedToken, Kept, TenantInfo, TenantUsage, TokenInfo

__version__ = _version.VERSION

__all__ = [
    "TLS",
    "Accepted",
    "AsyncClient",
    "AsyncDocument",
    "AsyncSession",
    "Capability",
    "CapabilityUnavailable",
    "Cell",
    "CellChanged",
    "CellNotFound",
    "CellRemoved",
    "CellUpdated",
    "CellyardError",
    "Client",
    "CommSaid",
    "Completeness",
    "Completion",
    "ControllerUnavailable",
    "DayOfUsage",
    "DisplayUpdated",
    "Document",
    "DocumentCell",
    "DocumentChange",
    "End",
    "EnvironmentFailed",
    "Event",
    "ExecutionEvent",
    "ExecutionNotFound",
    "ExecutionResult",
    "ExecutionTimeout",
    "FileInfo",
    "Finished",
    "HistoryEntry",
    "HostCalled",
    "InputRequested",
    "InstallResult",
    "InvalidRequest",
    "IssuedToken",
    "Kept",
    "KernelChanged",
    "KernelDied",
    "KernelInfo",
    "KernelMismatch",
    "MetadataChanged",
    "NoKernel",
    "NodeInfo",
    "NotConnected",
    "NotebookEvent",
    "NotebookInfo",
    "NotebookNotFound",
    "Output",
    "OutputCleared",
    "OutputEvent",
    "Package",
    "PermissionDenied",
    "PoolInfo",
    "ProcessEnded",
    "ProcessEvent",
    "ProcessOutput",
    "ProcessResult",
    "ProcessStarted",
    "Progress",
    "Queued",
    "QuotaExceeded",
    "RuntimedError",
    "SandboxInfo",
    "ServerInfo",
    "Session",
    "Snapshot",
    "Started",
    "TenantInfo",
    "TenantUsage",
    "TokenInfo",
    "Unauthenticated",
    "UninstallResult",
    "Usage",
    "Waiting",
    "Warned",
    "__version__",
]

_HOMES = {
    "_async.client": ("AsyncClient",),
    "_async.document": ("AsyncDocument",),
    "_async.session": ("AsyncSession",),
    "_sync.client": ("Client",),
    "_sync.document": ("Document",),
    "_sync.session": ("Session",),
    "document": ("DocumentCell", "DocumentChange"),
    "endpoint": ("TLS",),
    "events": (
        "Accepted",
        "CellRemoved",
        "CellUpdated",
        "CommSaid",
        "DisplayUpdated",
        "Event",
        "ExecutionEvent",
        "Finished",
        "HostCalled",
        "InputRequested",
        "KernelChanged",
        "MetadataChanged",
        "NotebookEvent",
        "OutputCleared",
        "OutputEvent",
        "Queued",
        "Snapshot",
        "Started",
        "Waiting",
        "Warned",
    ),
    "files": ("FileInfo",),
    "info": ("KernelInfo", "NodeInfo", "NotebookInfo", "PoolInfo", "SandboxInfo", "ServerInfo"),
    "packages": ("InstallResult", "Package", "UninstallResult"),
    "tenants": ("DayOfUsage", "IssuedToken", "Kept", "TenantInfo", "TenantUsage", "TokenInfo"),
    "processes": ("ProcessEnded", "ProcessEvent", "ProcessOutput", "ProcessResult", "ProcessStarted"),
    "results": (
        "Capability",
        "Cell",
        "Completeness",
        "Completion",
        "End",
        "ExecutionResult",
        "HistoryEntry",
        "Output",
        "Progress",
        "Usage",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cellyard' has no attribute {name!r}")
    module = _MODULES.get(name, "errors")
    if module.startswith("_"):
        _fork.load_grpc()
    value = getattr(importlib.import_module(f"cellyard.{module}"), "CellyardError" if name == "RuntimedError" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
