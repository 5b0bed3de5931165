"""Where HTTP may be served, under which names, and with which token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellyard.errors import CellyardError, InvalidRequest, PermissionDenied
from cellyard.mcp import http


@pytest.mark.parametrize("listen", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "127.3.2.1:8000"])
def test_loopback_is_served_under_its_names_alone(listen: str) -> None:
    where = http.address(listen, (), insecure=False)
    assert {"localhost:8000", "127.0.0.1:8000", "[::1]:8000"} <= set(where.hosts(where.port))
    assert "evil.example:8000" not in where.hosts(where.port)


@pytest.mark.parametrize(
    ("listen", "insecure", "expected"),
    [
        ("0.0.0.0:1", False, "--insecure-listen"),
        ("[::]:1", False, "--insecure-listen"),
        ("192.0.2.1:1", False, "--insecure-listen"),
        ("0.0.0.0:1", True, "--http-host"),
        ("8000", False, "HOST:PORT"),
        ("127.0.0.1:", False, "HOST:PORT"),
        ("127.0.0.1:70000", False, "HOST:PORT"),
        ("127.0.0.1:\u0661", False, "HOST:PORT"),
        ("example.org:1", True, "no address to listen on"),
    ],
)
def test_other_addresses_are_refused(listen: str, insecure: bool, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        http.address(listen, (), insecure=insecure)


def test_beyond_loopback_only_the_names_that_were_given_are_right() -> None:
    assert http.address("0.0.0.0:1", ("cells.example",), insecure=True).hosts(1) == ["cells.example:1"]
    assert http.address("192.0.2.1:1", (), insecure=True).hosts(1) == ["192.0.2.1:1"]


def test_a_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"
    token = http.token_file(path)
    assert len(token) >= 43
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert http.token_file(path) == token


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        (b"x" * 43, 0o640, PermissionDenied),
        (b"x" * 43, 0o604, PermissionDenied),
        (b"short", 0o600, InvalidRequest),
        (b"", 0o600, InvalidRequest),
        (b"two words " * 10, 0o600, InvalidRequest),
        (b"\xff" * 43, 0o600, InvalidRequest),
    ],
)
def test_a_file_that_is_no_secret_is_refused(
    tmp_path: Path, content: bytes, mode: int, error: type[CellyardError]
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(error):
        http.token_file(path)
