"""Refusals as gRPC status with google.rpc details, as errors.proto describes them."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from cellyard_controller.errors import Refused

_CODES = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "NOTEBOOK_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CELL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "EXECUTION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "WORKFLOW_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "WORKFLOW_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ARTIFACT_NAME_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "ARTIFACT_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "CELL_CHANGED": grpc.StatusCode.ABORTED,
    "EXECUTION_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "CONTROLLER_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
}


# Bytes that travel in trailing metadata, of which gRPC's clients take 8 KiB with certainty: past it they get no error
# of ours. The plain message is what clients read that do not know of details; each of its bytes may become three.
_PLAIN, _MESSAGE, _DETAIL = 800, 2500, 300
_LONGER = {"log": 1500}
"""Whoever sends these has a short message."""


async def abort(context: grpc.aio.ServicerContext[Any, Any], refused: Refused) -> NoReturn:
    """Ends a call with a refusal."""
    code = _CODES.get(refused.reason, grpc.StatusCode.FAILED_PRECONDITION)
    details = {key: _cut(value, _LONGER.get(key, _DETAIL)) for key, value in refused.details.items()}
    if refused.retryable:
        details["retryable"] = "true"
    info = error_details_pb2.ErrorInfo(reason=refused.reason, domain="cellyard", metadata=details)
    packed = [_pack(info)]
    if refused.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(refused.retry_after_s * 1e9))
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=code.value[0], message=_cut(refused.message, _MESSAGE), details=packed)
    trailer = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, _cut(refused.message, _PLAIN), trailing_metadata=(trailer,))


def _cut(text: str, size: int) -> str:
    encoded = text.encode(errors="backslashreplace")
    return text if len(encoded) <= size else encoded[:size].decode(errors="ignore") + "..."


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
