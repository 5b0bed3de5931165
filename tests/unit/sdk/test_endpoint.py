"""Where the controller is looked for, and what is refused before anybody connects."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cellyard.endpoint import (
    TLS,
    check_folder,
    listening,
    own_socket,
    require_listener,
    resolve,
    state_dir,
)
from cellyard.errors import ControllerUnavailable, InvalidRequest, PermissionDenied, Unauthenticated


def test_the_argument_comes_first_then_the_environment_then_the_users_own() -> None:
    environ = {
        "CELLYARD_ENDPOINT": "unix:/run/named.sock",
        "RUNTIMED_SOCKET_PATH": "/run/original.sock",
        "XDG_RUNTIME_DIR": "/run/user/7",
    }
    assert resolve("127.0.0.1:7000", environ=environ).name == "127.0.0.1:7000"
    assert resolve(environ=environ).name == "unix:/run/named.sock"
    del environ["CELLYARD_ENDPOINT"]
    assert resolve(environ=environ).name == "unix:/run/original.sock"
    del environ["RUNTIMED_SOCKET_PATH"]
    own = resolve(environ=environ)
    assert own.name == "unix:/run/user/7/cellyard/controller.sock"
    assert own.own
    assert not resolve("unix:/x", environ=environ).own


def test_the_users_own_socket_without_a_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert own_socket({}) == Path("/home/ann/.local/state/cellyard/run/controller.sock")
    assert own_socket({"XDG_STATE_HOME": "/state"}) == Path("/state/cellyard/run/controller.sock")
    assert state_dir({"XDG_STATE_HOME": "/state"}) == Path("/state/cellyard")


def test_the_environments_token_is_for_named_controllers_only() -> None:
    environ = {"CELLYARD_TOKEN": "t0ken"}
    assert resolve("unix:/x", environ=environ).token == "t0ken"
    assert resolve("unix:/x", "mine", environ=environ).token == "mine"
    assert resolve(environ=environ).token is None
    assert resolve(token="mine", environ=environ).token == "mine"
    assert resolve("unix:/x", environ={"CELLYARD_TOKEN": ""}).token is None


@pytest.mark.parametrize("token", ["", " ", "a b", "a\n", "ä", "x" * 4097, b"bytes", 7])
def test_a_token_that_cannot_travel_reads_like_a_wrong_one(token: object) -> None:
    with pytest.raises(Unauthenticated, match=r"^authentication failed$"):
        resolve("unix:/x", token, environ={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["unix:/run/c.sock", "unix:///run/c.sock", "localhost:1", "[::1]:65535", "h.example:443"]
)
def test_endpoints_that_are_some(name: str) -> None:
    assert resolve(name, environ={})


@pytest.mark.parametrize(
    "name",
    [
        "",
        "unix:",
        "/run/c.sock",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:-1",
        "host:²",
        "::1:80",
        "http://h:80",
        "a\0b:1",
    ],
)
def test_endpoints_that_are_none(name: str) -> None:
    with pytest.raises(InvalidRequest):
        resolve(name, environ={})


def test_a_socket_path_that_is_too_long_is_refused_with_the_number() -> None:
    assert resolve("unix:/" + "x" * 106, environ={}).socket is not None
    with pytest.raises(InvalidRequest, match=r"has 108 bytes.* 107"):
        resolve("unix:/" + "x" * 107, environ={})
    with pytest.raises(InvalidRequest, match="107"):
        resolve("unix:/" + "é" * 54, environ={})


def test_a_relative_path_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("unix:c.sock", environ={}).socket == tmp_path / "c.sock"


def test_what_is_special_in_addresses_is_escaped() -> None:
    assert resolve("unix:/a b/100%?#", environ={}).target == "unix:/a%20b/100%25%3F%23"


def test_tls_is_for_tcp() -> None:
    assert resolve("h:1", tls=True, environ={}).tls == TLS()
    assert resolve("h:1", tls=TLS(ca="x"), environ={}).tls == TLS(ca="x")
    assert resolve("h:1", tls=False, environ={}).tls is None
    with pytest.raises(InvalidRequest, match="unix socket"):
        resolve("unix:/x", tls=True, environ={})
    with pytest.raises(InvalidRequest, match="tls must be"):
        resolve("h:1", tls="yes", environ={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "loopback"),
    [("unix:/x", True), ("localhost:1", True), ("127.3.2.1:1", True), ("[::1]:1", True), ("10.0.0.1:1", False)],
)
def test_loopback_is_known(name: str, loopback: bool) -> None:
    assert resolve(name, environ={}).loopback is loopback


def test_a_folder_of_ones_own_is_fine(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    check_folder(tmp_path)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(PermissionDenied, match="chmod 700"):
        check_folder(tmp_path)


def test_a_link_to_a_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for path in ("link", "file"):
        with pytest.raises(PermissionDenied, match="is no folder"):
            check_folder(tmp_path / path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 4321, -1)
    with pytest.raises(PermissionDenied, match="belongs to user 4321"):
        check_folder(tmp_path)


def test_whether_somebody_listens(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not listening(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert not listening(path)
        server.listen(0)
        assert listening(path)
        assert listening(path), "a full queue is a listener too"
    assert not listening(path)


def test_nobody_there_is_said_with_the_remedy(tmp_path: Path) -> None:
    named = resolve(f"unix:{tmp_path}/s", environ={})
    with pytest.raises(ControllerUnavailable, match="cellyard serve --listen") as caught:
        require_listener(named)
    assert caught.value.retryable
    (tmp_path / "file").write_text("")
    with pytest.raises(ControllerUnavailable, match="Not a directory"):
        require_listener(resolve(f"unix:{tmp_path}/file/s", environ={}))
    require_listener(resolve("127.0.0.1:1", environ={}))
