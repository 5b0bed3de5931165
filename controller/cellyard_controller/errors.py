"""Why the controller refuses something. The api turns these into gRPC status; nothing else knows gRPC.

Each error has a `reason`, the name of a value of the protocol's ErrorReason without its prefix.
"""

from __future__ import annotations


class Refused(Exception):
    """A request that is not carried out. Nothing of it has happened."""

    reason = "INVALID_REQUEST"
    retryable = False

    def __init__(self, message: str, /, *, retry_after_s: float | None = None, **details: str) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details


class InvalidRequest(Refused):
    """The request itself is wrong; it would be refused again."""


class NotebookNotFound(Refused):
    """No such notebook in this tenant's namespace."""

    reason = "NOTEBOOK_NOT_FOUND"


class CellNotFound(Refused):
    """No such cell in the notebook."""

    reason = "CELL_NOT_FOUND"


class CellChanged(Refused):
    """The cell's source is another one than the caller has seen."""

    reason = "CELL_CHANGED"


class ExecutionNotFound(Refused):
    """No such execution in the notebook, or its time of retention is over."""

    reason = "EXECUTION_NOT_FOUND"


class WorkflowNotFound(Refused):
    """No such workflow in the tenant's workspace."""

    reason = "WORKFLOW_NOT_FOUND"


class WorkflowInvalid(Refused):
    """A workflow's name, source or description is wrong."""

    reason = "WORKFLOW_INVALID"


class ArtifactNotFound(Refused):
    """No such artifact in the tenant's workspace."""

    reason = "ARTIFACT_NOT_FOUND"


class ArtifactNameInvalid(Refused):
    """No artifact can have this name."""

    reason = "ARTIFACT_NAME_INVALID"


class ArtifactInvalid(Refused):
    """An artifact's content, description or metadata is wrong."""

    reason = "ARTIFACT_INVALID"


class NoKernel(Refused):
    """The call needs a running kernel."""

    reason = "NO_KERNEL"


class KernelDied(Refused):
    """The kernel, and its sandbox, ended before it could do what was asked."""

    reason = "KERNEL_DIED"


class KernelMismatch(Refused):
    """Another kernel runs than the one asked for."""

    reason = "KERNEL_MISMATCH"


class EnvironmentFailed(Refused):
    """The environment cannot be had."""

    reason = "ENVIRONMENT_FAILED"


class CapabilityUnavailable(Refused):
    """What was required has not been proven, or the runtime is not there."""

    reason = "CAPABILITY_UNAVAILABLE"


class NotYetProven(CapabilityUnavailable):
    """What was required has not been proven only because the machine is busy: it is probed again."""

    retryable = True


class QuotaExceeded(Refused):
    """The tenant has used up what it may have."""

    reason = "QUOTA_EXCEEDED"
    retryable = True


class Unauthenticated(Refused):
    """No token, or one that is not in force. Both answer alike."""

    reason = "UNAUTHENTICATED"

    def __init__(self) -> None:
        super().__init__("authentication failed")


class PermissionDenied(Refused):
    """The caller is known, and may not do this."""

    reason = "PERMISSION_DENIED"


class NoAnswer(Refused):
    """The kernel, or its sandbox, has not answered in time."""

    reason = "EXECUTION_TIMEOUT"
    retryable = True


class Unavailable(Refused):
    """The controller cannot do it now and may not tomorrow: its store takes no writes, a document is damaged."""

    reason = "CONTROLLER_UNAVAILABLE"


class Stopping(Unavailable):
    """The controller is going; its successor will do it."""

    retryable = True


class SandboxAway(Unavailable):
    """The connection to the sandbox broke; it comes back, or the sandbox's end is noticed."""

    retryable = True


class Moved(Unavailable):
    """The notebook is this controller's no more, or nobody's for the moment; whoever asks again is told whose it is."""

    retryable = True


class NotOwner(Refused):
    """Another node's controller has the notebook. Details: its `endpoint`, its `node`, and the `notebook_id`."""

    reason = "NOT_OWNER"

    @classmethod
    def of(cls, notebook_id: str, *, node: str, endpoint: str) -> NotOwner:
        """With the sentence for clients that do not know how to follow."""
        return cls(
            f"notebook {notebook_id!r} is on node {node!r}: ask its controller at {endpoint}",
            notebook_id=notebook_id,
            node=node,
            endpoint=endpoint,
        )
