"""The error tree, and how a call's status becomes one of it."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import cellyard
from cellyard import errors
from cellyard._rpc_errors import translate
from cellyard.codemode import errors as codemode_errors
from cellyard_proto.v1 import errors_pb2

TREE = [
    kind
    for kind in {**vars(errors), **vars(codemode_errors)}.values()
    if isinstance(kind, type) and issubclass(kind, cellyard.CellyardError)
]


class Failed(grpc.RpcError):
    """A call that ended so."""

    def __init__(self, code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._metadata


def described(reason: str, *, domain: str = "cellyard", retry_s: float | None = None, **metadata: str) -> Failed:
    """A failed call with the details that the controller sends."""
    status = status_pb2.Status(code=9, message="what happened")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))
    if retry_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(retry_s * 1000))
        status.details.add().Pack(retry)
    trailer = (("grpc-status-details-bin", status.SerializeToString()),)
    return Failed(grpc.StatusCode.FAILED_PRECONDITION, "plain words", trailer)


def test_every_reason_of_the_protocol_has_a_class() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert {kind.reason for kind in TREE} - {""} == names
    for name in names:
        failure, _ = translate(described(name), "here")
        assert type(failure).reason == name


def test_details_and_retry_come_along() -> None:
    failure, broken = translate(described("CELL_NOT_FOUND", cell_id="c", retryable="true", retry_s=1.5), "here")
    assert isinstance(failure, cellyard.CellNotFound)
    assert (str(failure), failure.message, failure.retryable) == ("what happened", "what happened", True)
    assert failure.details == {"cell_id": "c", "retry_after_s": 1.5}
    assert not broken


def test_a_reason_that_is_new_is_an_error_all_the_same() -> None:
    failure, _ = translate(described("SOMETHING_NEW"), "here")
    assert type(failure) is cellyard.CellyardError


def test_details_of_others_are_not_ours() -> None:
    failure, _ = translate(described("CELL_NOT_FOUND", domain="elsewhere"), "here")
    assert type(failure) is cellyard.CellyardError
    assert str(failure) == "plain words"


@pytest.mark.parametrize(
    ("code", "kind", "broken"),
    [
        (grpc.StatusCode.UNAVAILABLE, cellyard.ControllerUnavailable, True),
        (grpc.StatusCode.CANCELLED, cellyard.ControllerUnavailable, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, cellyard.ControllerUnavailable, False),
        (grpc.StatusCode.UNAUTHENTICATED, cellyard.Unauthenticated, False),
        (grpc.StatusCode.PERMISSION_DENIED, cellyard.PermissionDenied, False),
        (grpc.StatusCode.INVALID_ARGUMENT, cellyard.InvalidRequest, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, cellyard.InvalidRequest, False),
        (grpc.StatusCode.UNIMPLEMENTED, cellyard.CellyardError, False),
        (grpc.StatusCode.UNKNOWN, cellyard.CellyardError, False),
        (grpc.StatusCode.INTERNAL, cellyard.CellyardError, False),
    ],
)
def test_bare_codes(code: grpc.StatusCode, kind: type[Exception], broken: bool) -> None:
    failure, is_broken = translate(Failed(code, "words"), "unix:/here")
    assert (type(failure), is_broken) == (kind, broken)


@pytest.mark.parametrize(
    ("reason", "retryable", "broken"),
    [
        ("CONTROLLER_UNAVAILABLE", "true", True),
        ("CONTROLLER_UNAVAILABLE", "false", False),
        ("NOT_CONNECTED", "false", True),
        ("QUOTA_EXCEEDED", "true", False),
    ],
)
def test_what_is_worth_another_try(reason: str, retryable: str, broken: bool) -> None:
    assert translate(described(reason, retryable=retryable), "here")[1] is broken


def test_garbage_in_the_details_is_no_crash() -> None:
    trailer = (("grpc-status-details-bin", b"\xff\xff\xff"),)
    failure, _ = translate(Failed(grpc.StatusCode.INTERNAL, "words", trailer), "here")
    assert str(failure) == "words"


def test_errors_are_what_users_of_the_originals_catch() -> None:
    assert cellyard.RuntimedError is cellyard.CellyardError
    assert issubclass(cellyard.InvalidRequest, ValueError)
    assert issubclass(cellyard.ExecutionTimeout, TimeoutError)


@pytest.mark.parametrize("kind", TREE)
def test_errors_can_be_sent_between_processes(kind: type[cellyard.CellyardError]) -> None:
    error = kind("what", retryable=True, details={"a": 1})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.retryable, copy.details) == (kind, "what", True, {"a": 1})


def test_a_message_on_a_stream_that_has_just_broken_is_a_broken_connection() -> None:
    failure, broken = translate(Failed(grpc.StatusCode.INTERNAL, "Internal error from Core"), "here")
    assert isinstance(failure, cellyard.ControllerUnavailable)
    assert broken
    _, other = translate(Failed(grpc.StatusCode.INTERNAL, "internal error; the controller's log says more"), "here")
    assert not other
