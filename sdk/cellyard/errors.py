"""What can go wrong, as a small tree under `CellyardError`.

Every error has `message` (what happened, to which id, what to do), `retryable` (the same call may succeed later)
and `details` (what the message talks about: `notebook_id`, `cell_id`, `retry_after_s`, ...). gRPC's own errors
never reach a caller. Each class has in `reason` the name by which the protocol knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from cellyard.results import ExecutionResult


_BY_REASON: dict[str, type[CellyardError]] = {}


class CellyardError(Exception):
    """Base of everything that Cellyard raises. Also exported as `RuntimedError`."""

    reason: ClassVar[str] = ""
    """The name by which the protocol knows the error."""

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("reason"):
            _BY_REASON[cls.reason] = cls

    def __init__(self, message: str = "", *, retryable: bool = False, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        """What happened, to which id, and what to do."""
        self.retryable = retryable
        """Whether the same call may succeed later."""
        self.details: dict[str, Any] = dict(details or {})
        """What the message talks about: `notebook_id`, `retry_after_s` (seconds), ..."""

    def __str__(self) -> str:
        return self.message


class NotConnected(CellyardError):
    """The call needs a connection, and there is none: before `connect()`, or after `close()`."""

    reason = "NOT_CONNECTED"


class NotOwner(CellyardError):
    """Another node's controller has the notebook: `details` has its `endpoint` and its `node`. Followed by itself."""

    reason = "NOT_OWNER"


class NotebookNotFound(CellyardError):
    """No such notebook."""

    reason = "NOTEBOOK_NOT_FOUND"


class CellNotFound(CellyardError):
    """No such cell in the notebook."""

    reason = "CELL_NOT_FOUND"


class CellChanged(CellyardError):
    """The cell's source is another one than `if_version` says: somebody was faster."""

    reason = "CELL_CHANGED"


class ExecutionNotFound(CellyardError):
    """No such execution in the notebook, or it is no longer kept."""

    reason = "EXECUTION_NOT_FOUND"


class InvalidRequest(CellyardError, ValueError):
    """An argument is wrong; the same call would be refused again. A ValueError too."""

    reason = "INVALID_REQUEST"


class KernelDied(CellyardError):
    """The kernel ended before it could do what was asked."""

    reason = "KERNEL_DIED"


class KernelMismatch(CellyardError):
    """The notebook's kernel is another one than asked for: its type, runtime, template or network."""

    reason = "KERNEL_MISMATCH"


class NoKernel(CellyardError):
    """The call needs a running kernel, and the notebook has none."""

    reason = "NO_KERNEL"


class EnvironmentFailed(CellyardError):
    """The kernel's environment cannot be had."""

    reason = "ENVIRONMENT_FAILED"


class CapabilityUnavailable(CellyardError):
    """What was required has not been proven, or the runtime is not there."""

    reason = "CAPABILITY_UNAVAILABLE"


class QuotaExceeded(CellyardError):
    """The tenant has used up what it may have. `details["retry_after_s"]` says when to try again, if known."""

    reason = "QUOTA_EXCEEDED"


class Unauthenticated(CellyardError):
    """No token, or one that is not in force. Both read alike."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(CellyardError):
    """The caller is known, and may not do this."""

    reason = "PERMISSION_DENIED"


class ControllerUnavailable(CellyardError):
    """No controller answers, or it stopped answering and did not come back in time."""

    reason = "CONTROLLER_UNAVAILABLE"


class ExecutionTimeout(CellyardError, TimeoutError):
    """An execution took longer than it was given. A TimeoutError too.

    `execution_id` names it; `result` has what it showed until then.
    """

    reason = "EXECUTION_TIMEOUT"

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
        execution_id: str | None = None,
        result: ExecutionResult | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, details=details)
        self.execution_id = execution_id
        self.result = result


def error_class(reason: str) -> type[CellyardError]:
    """The class for a reason of the protocol, `CellyardError` for one that this release does not know."""
    return _BY_REASON.get(reason, CellyardError)
