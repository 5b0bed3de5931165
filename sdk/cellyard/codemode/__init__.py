"""Code mode: agents' code that calls tools, keeps workflows and artifacts, and brings packages.

    from cellyard.codemode import Session

    async with Session.from_base("./.code-mode") as session:
        result = await session.run("tools.list()")

Names are imported when they are first used: a session on a folder needs neither Redis' client nor a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cellyard import _fork

if TYPE_CHECKING:
    from cellyard.codemode.errors import (
        ArtifactDataError,
        ArtifactNameError,
        ArtifactNotFoundError,
        CodeModeError,
        DependencyError,
        RuntimeDepsDisabledError,
        SessionClosed,
        StorageError,
        ToolCallError,
        ToolDefinitionError,
        ToolNotFoundError,
        ToolRefusedError,
        ToolTimeoutError,
        WorkflowNotFoundError,
        WorkflowValidationError,
    )
    from cellyard.codemode.executors.inprocess import InProcessConfig, InProcessExecutor
    from cellyard.codemode.executors.protocol import Executor
    from cellyard.codemode.executors.remote import ContainerConfig, ContainerExecutor
    from cellyard.codemode.executors.subprocess import SubprocessConfig, SubprocessExecutor
    from cellyard.codemode.results import ExecutionResult
    from cellyard.codemode.session import Session
    from cellyard.codemode.storage.controller import ControllerStorage
    from cellyard.codemode.storage.file import FileStorage
    from cellyard.codemode.storage.protocols import ArtifactInfo, StorageBackend
    from cellyard.codemode.storage.redis import RedisStorage
    from cellyard.codemode.tools import ToolCall

__all__ = [
    "ArtifactDataError",
    "ArtifactInfo",
    "ArtifactNameError",
    "ArtifactNotFoundError",
    "CodeModeError",
    "ContainerConfig",
    "ContainerExecutor",
    "ControllerStorage",
    "DependencyError",
    "ExecutionResult",
    "Executor",
    "FileStorage",
    "InProcessConfig",
    "InProcessExecutor",
    "RedisStorage",
    "RuntimeDepsDisabledError",
    "Session",
    "SessionClosed",
    "StorageBackend",
    "StorageError",
    "SubprocessConfig",
    "SubprocessExecutor",
    "ToolCall",
    "ToolCallError",
    "ToolDefinitionError",
    "ToolNotFoundError",
    "ToolRefusedError",
    "ToolTimeoutError",
    "WorkflowNotFoundError",
    "WorkflowValidationError",
]

_HOMES = {
    "executors.inprocess": ("InProcessConfig", "InProcessExecutor"),
    "executors.protocol": ("Executor",),
    "executors.remote": ("ContainerConfig", "ContainerExecutor"),
    "executors.subprocess": ("SubprocessConfig", "SubprocessExecutor"),
    "results": ("ExecutionResult",),
    "session": ("Session",),
    "storage.controller": ("ControllerStorage",),
    "storage.file": ("FileStorage",),
    "storage.protocols": ("ArtifactInfo", "StorageBackend"),
    "storage.redis": ("RedisStorage",),
    "tools": ("ToolCall",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _fork.load_grpc()
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
