"""What code mode's Session raises: code mode's errors as part of `cellyard.errors`' tree.

Each is also the class of the same name that running code catches, so `except` reads alike on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cellyard.errors import CellyardError
from cellyard_proto.codemode import errors as shared


class CodeModeError(CellyardError, shared.CodeModeError):
    """Base of what code mode adds to Cellyard's errors."""


class ToolNotFoundError(CodeModeError, shared.ToolNotFoundError):
    """No such tool, or no such recipe of it."""


class ToolDefinitionError(CodeModeError, shared.ToolDefinitionError):
    """A tool's definition is wrong; the message names file and line."""


class ToolCallError(CodeModeError, shared.ToolCallError):
    """A tool was called and has no result: it refused its arguments, failed, or said too much."""


class ToolTimeoutError(ToolCallError, shared.ToolTimeoutError):
    """A tool took longer than it is given."""


class ToolRefusedError(ToolCallError, shared.ToolRefusedError):
    """`on_tool_call` does not let this call go."""


class WorkflowNotFoundError(CodeModeError, shared.WorkflowNotFoundError):
    """No such workflow."""

    reason = "WORKFLOW_NOT_FOUND"


class WorkflowValidationError(CodeModeError, shared.WorkflowValidationError):
    """A workflow's name or source is wrong."""

    reason = "WORKFLOW_INVALID"


class ArtifactNotFoundError(CodeModeError, shared.ArtifactNotFoundError):
    """No such artifact."""

    reason = "ARTIFACT_NOT_FOUND"


class ArtifactNameError(CodeModeError, shared.ArtifactNameError):
    """No artifact can have this name."""

    reason = "ARTIFACT_NAME_INVALID"


class ArtifactDataError(CodeModeError, shared.ArtifactDataError):
    """The value, or the metadata, cannot be kept so that it comes back the same."""

    reason = "ARTIFACT_INVALID"


class DependencyError(CodeModeError, shared.DependencyError):
    """A package was asked for in a way that is not taken."""


class RuntimeDepsDisabledError(CodeModeError, shared.RuntimeDepsDisabledError):
    """The session was made with `allow_runtime_deps=False`."""


class StorageError(CodeModeError, shared.StorageError):
    """The storage cannot be read, or cannot be written."""


class SessionClosed(CodeModeError):
    """The session was closed. Open another one."""


_CLASSES: dict[str, type[CodeModeError]] = {
    name: found for name, found in vars().items() if isinstance(found, type) and issubclass(found, CodeModeError)
}


def public(error: shared.CodeModeError) -> CodeModeError:
    """The same error as one of `cellyard.errors`' tree."""
    if isinstance(error, CodeModeError):
        return error
    return _CLASSES.get(type(error).__name__, CodeModeError)(str(error))


@contextmanager
def made_public() -> Iterator[None]:
    """What the parts that all sides share raise, leaves here as an error of `cellyard.errors`' tree."""
    try:
        yield
    except shared.CodeModeError as error:
        if isinstance(error, CodeModeError):
            raise
        raise public(error) from None
