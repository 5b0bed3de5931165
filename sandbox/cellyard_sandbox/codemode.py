"""Code mode's namespaces for the code of a sandbox: `from cellyard_sandbox.codemode import artifacts, workflows`.

The code of a code mode session has them among its globals. Elsewhere the controller serves `workflows` and
`artifacts`; `tools` and `deps` are the business of a client, and raise HostUnavailable where it offers none.
"""

from __future__ import annotations

import builtins
import os
import uuid
from pathlib import Path
from typing import Any

from cellyard_proto.codemode.errors import (
    CLASSES,
    ArtifactDataError,
    ArtifactNameError,
    ArtifactNotFoundError,
    CodeModeError,
    DependencyError,
    RuntimeDepsDisabledError,
    StorageError,
    ToolCallError,
    ToolDefinitionError,
    ToolNotFoundError,
    ToolRefusedError,
    ToolTimeoutError,
    WorkflowNotFoundError,
    WorkflowValidationError,
)
from cellyard_proto.codemode.namespaces import Namespaces
from cellyard_sandbox.host_client import HostCallError, HostError, HostUnavailable, call

__all__ = [
    "ArtifactDataError",
    "ArtifactNameError",
    "ArtifactNotFoundError",
    "CodeModeError",
    "DependencyError",
    "HostCallError",
    "HostError",
    "HostUnavailable",
    "RuntimeDepsDisabledError",
    "StorageError",
    "ToolCallError",
    "ToolDefinitionError",
    "ToolNotFoundError",
    "ToolRefusedError",
    "ToolTimeoutError",
    "WorkflowNotFoundError",
    "WorkflowValidationError",
    "artifacts",
    "deps",
    "tools",
    "workflows",
]

_EXITS = ("exit", "quit")
_FOLDER = ".cache/cellyard/codemode"


def _ask(function: str, operation: str, /, **arguments: Any) -> Any:
    try:
        return call(function, operation, **arguments)
    except HostCallError as failed:
        error = _error(failed)
    raise error  # outside, so that no traceback shows how it came


def _error(failed: HostCallError) -> Exception:
    """As the class whose name it travelled by: one of code mode's, or of Python's own."""
    kind = CLASSES.get(failed.name) or getattr(builtins, failed.name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(failed.message)
        except TypeError:  # a UnicodeDecodeError, say, which needs more than a message
            return failed
    return failed


def _leave(code: object = None) -> None:
    raise SystemExit(code)


class _Files:
    """Below the home, from which both sides can take them."""

    def new(self) -> str:
        return f"{_FOLDER}/{uuid.uuid4()}"

    def write(self, place: str, content: bytes) -> None:
        path = self._path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def take(self, place: str) -> bytes:
        return self._path(place).read_bytes()

    def remove(self, place: str) -> None:
        self._path(place).unlink(missing_ok=True)

    def _path(self, place: str) -> Path:
        return Path(os.path.expanduser("~"), place)


_namespaces = Namespaces(_ask, _Files())
tools = _namespaces.tools
workflows = _namespaces.workflows
artifacts = _namespaces.artifacts
deps = _namespaces.deps


def provide(variables: dict[str, Any], hidden: dict[str, Any]) -> None:
    """Puts the namespaces among a kernel's globals, where these have nothing of the same name.

    `hidden`: what listings of the globals leave out. There, IPython's exit() would end the kernel after the cell, and
    with it whatever runs next: here it is an exception, as in a program.
    """
    for name in _EXITS:
        if variables.get(name) is hidden.get(name):
            variables[name] = hidden[name] = _leave
    found = _namespaces.globals()
    for name in found.keys() - variables.keys():
        variables[name] = hidden[name] = found[name]
