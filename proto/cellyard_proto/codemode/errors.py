"""What goes wrong in code mode, as running code catches it. A call's error travels by the name of its class."""

from __future__ import annotations


class CodeModeError(Exception):
    """Base of what the namespaces raise in running code."""


class ToolNotFoundError(CodeModeError, AttributeError):
    """No such tool, or no such recipe of it."""


class ToolDefinitionError(CodeModeError, ValueError):
    """A tool's definition is wrong; the message names file and line."""


class ToolCallError(CodeModeError):
    """A tool was called and has no result: it refused its arguments, failed, or said too much."""


class ToolTimeoutError(ToolCallError):
    """A tool took longer than it is given."""


class ToolRefusedError(ToolCallError):
    """The client does not let this call go."""


class WorkflowNotFoundError(CodeModeError, AttributeError, ValueError):
    """No such workflow."""


class WorkflowValidationError(CodeModeError, ValueError):
    """A workflow's name or source is wrong."""


class ArtifactNotFoundError(CodeModeError, LookupError):
    """No such artifact."""


class ArtifactNameError(CodeModeError, ValueError):
    """No artifact can have this name."""


class ArtifactDataError(CodeModeError, TypeError):
    """The value, or the metadata, cannot be kept so that it comes back the same."""


class DependencyError(CodeModeError, ValueError):
    """A package was asked for in a way that is not taken."""


class RuntimeDepsDisabledError(CodeModeError):
    """The session's owner does not let packages be added or removed."""


class StorageError(CodeModeError):
    """The storage cannot be read, or cannot be written."""


CLASSES: dict[str, type[CodeModeError]] = {
    name: found for name, found in vars().items() if isinstance(found, type) and issubclass(found, CodeModeError)
}
"""By name."""
