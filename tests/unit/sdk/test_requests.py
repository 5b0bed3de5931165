"""Arguments are checked before anything is sent, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from cellyard import _requests
from cellyard.errors import InvalidRequest
from cellyard_proto.v1 import kernels_pb2

NOTHING: dict[str, object] = dict.fromkeys(
    ("runtime", "template", "python_version", "network", "env", "files", "start_timeout", "idle_timeout", "ttl")
) | {"require": ()}


def test_no_settings_are_the_controllers_defaults() -> None:
    assert _requests.settings(**NOTHING) == kernels_pb2.KernelSettings()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime", ""),
        ("runtime", 1),
        ("network", b"none"),
        ("template", "\udc80"),
        ("require", "container_isolation"),
        ("require", [""]),
        ("require", [1]),
        ("require", 5),
        ("env", [("A", "1")]),
        ("env", {"A": None}),
        ("env", {1: "a"}),
        ("files", {"a": "text"}),
        ("files", {"": b""}),
        ("start_timeout", 0),
        ("idle_timeout", float("nan")),
        ("ttl", float("inf")),
        ("ttl", True),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        _requests.settings(**{**NOTHING, name: value})


def test_a_lone_surrogate_is_said_with_its_place() -> None:
    with pytest.raises(InvalidRequest, match="source has a lone surrogate at position 3"):
        _requests.text("source", "abc\ud800")


@pytest.mark.parametrize(("value", "seconds"), [(1, 1.0), (0.5, 0.5), (None, None), (float("inf"), None)])
def test_seconds(value: Any, seconds: float | None) -> None:
    assert _requests.seconds("timeout", value) == seconds


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("-inf"), "1", False, True, [1]])
def test_no_seconds(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        _requests.seconds("timeout", value)


@pytest.mark.parametrize(("value", "index"), [(None, None), (0, 0), (10**30, 2**62)])
def test_an_index(value: Any, index: int | None) -> None:
    assert _requests.index(value) == index


@pytest.mark.parametrize("value", [-1, "0", 1.0, True])
def test_no_index(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="index"):
        _requests.index(value)


def test_ids_are_fresh() -> None:
    assert _requests.cell_id() != _requests.cell_id()
    assert _requests.request_id() != _requests.request_id()
