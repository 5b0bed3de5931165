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
    "CELL_CHANGED": grpc.StatusCode.ABORTED,
    "EXECUTION_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "CONTROLLER_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
}


async def abort(context: grpc.aio.ServicerContext[Any, Any], refused: Refused) -> NoReturn:
    """Ends a call with a refusal."""
    code = _CODES.get(refused.reason, grpc.StatusCode.FAILED_PRECONDITION)
    details = {key: value[:1000] for key, value in refused.details.items()}
    if refused.retryable:
        details["retryable"] = "true"
    info = error_details_pb2.ErrorInfo(reason=refused.reason, domain="cellyard", metadata=details)
    packed = [_pack(info)]
    if refused.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(refused.retry_after_s * 1e9))
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=code.value[0], message=refused.message, details=packed)
    trailer = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, refused.message[:2000], trailing_metadata=(trailer,))


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
