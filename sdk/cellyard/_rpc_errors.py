"""From gRPC's status to our errors: the edge where gRPC ends."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cellyard.errors import (
    CellyardError,
    ControllerUnavailable,
    InvalidRequest,
    NotConnected,
    PermissionDenied,
    Unauthenticated,
    error_class,
)

DOMAIN = "cellyard"
DETAILS_KEY = "grpc-status-details-bin"

_SENT_TO_NOBODY = "Internal error from Core"
"""What gRPC's asyncio says where a message is sent on a stream whose connection has just broken."""

# gRPC tells in words alone why a handshake failed; where it tells other words one day, the plain message is left.
_HANDSHAKE = (
    ("WRONG_VERSION_NUMBER", "it speaks without TLS; leave tls out, or have it serve with --tls-cert and --tls-key"),
    ("Hostname Verification Check failed", "its certificate is for another name; use a name of its in the endpoint"),
)
_DISTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]*)")
_CLOSED_AT_ONCE = re.compile(r"failed to connect to all addresses.*(Socket closed|Connection reset)")

# What a status means where no detail of ours comes with it: it was made by gRPC itself, on either side.
_BARE: dict[grpc.StatusCode, type[CellyardError]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: InvalidRequest,  # a message past gRPC's own size limit
}


def translate(error: grpc.RpcError, endpoint: str) -> tuple[CellyardError, bool]:
    """The error for a failed call, and whether the connection broke, so that the call is worth repeating."""
    code: grpc.StatusCode = error.code()
    text: str = error.details() or code.name.lower()
    ours = _from_details(error, text)
    if ours is not None:
        # The controller said so itself: it is stopping, or it does not know this session (any more).
        broken = isinstance(ours, NotConnected) or (isinstance(ours, ControllerUnavailable) and ours.retryable)
        return ours, broken
    details = {"endpoint": endpoint, "status": code.name, "reason": text}
    if code is grpc.StatusCode.UNAVAILABLE and (why := _handshake(text)):
        return ControllerUnavailable(f"no connection to the controller at {endpoint}: {why}", details=details), False
    gone = code is grpc.StatusCode.INTERNAL and text == _SENT_TO_NOBODY
    if gone or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        message = f"the controller at {endpoint} does not answer: {_short(text)}"
        if not endpoint.startswith("unix:") and _CLOSED_AT_ONCE.search(text):
            message += " (does it want TLS, or a certificate of the client's? see cellyard.TLS)"
        return ControllerUnavailable(message, retryable=True, details=details), True
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"the controller at {endpoint} did not answer in time"
        return ControllerUnavailable(message, retryable=True, details=details), False
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return CellyardError(f"unsupported by the controller at {endpoint}: {text}", details=details), False
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated("authentication failed", details=details), False
    return _BARE.get(code, CellyardError)(text, details=details), False


def _from_details(error: grpc.RpcError, text: str) -> CellyardError | None:
    """The error that the controller described in the trailing metadata (errors.proto), if it did."""
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    raw = next((value for key, value in metadata if key == DETAILS_KEY), None)
    if not isinstance(raw, bytes):
        return None
    try:
        return _described(status_pb2.Status.FromString(raw), text)
    except DecodeError:  # not written by a controller of ours
        return None


def _described(status: status_pb2.Status, text: str) -> CellyardError | None:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    found: CellyardError | None = None
    details: dict[str, Any] = {}
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            details.update(info.metadata)
            again = details.pop("retryable", "false") == "true"
            found = error_class(info.reason)(status.message or text, retryable=again, details=details)
        elif detail.Unpack(retry):
            details["retry_after_s"] = retry.retry_delay.ToTimedelta().total_seconds()
    if found is not None:
        found.details.update(details)
    return found


def _handshake(text: str) -> str:
    """Why a TLS handshake failed, and what to do; empty where it is not that."""
    if found := _DISTRUSTED.search(text):
        return f"its certificate is not trusted ({found[1]}); TLS(ca=...) names the authority that signed it"
    return next((why for words, why in _HANDSHAKE if words in text), "")


def _short(text: str) -> str:
    """The last clause of gRPC's explanation, which names the system's error."""
    return text.rsplit("; last error: ", 1)[-1]
