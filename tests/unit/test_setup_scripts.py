"""What the set-up scripts find and say; nothing is installed or started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str, **environment: str) -> tuple[int, str]:
    """Exit code and what the script said."""
    done = subprocess.run(
        [str(ROOT / "scripts" / name)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    """A socket that answers every request as an engine answers the question for its version."""
    path = tmp_path / "engine.sock"
    body = b'{"Version": "99.1"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_engine_that_answers_is_used_as_it_is(engine: Path) -> None:
    code, said = script("engine.sh", DOCKER_HOST=f"unix://{engine}")
    assert (code, said) == (0, "engine  version 99.1 answers at DOCKER_HOST\n")


def test_the_usual_engine_needs_no_variable(engine: Path) -> None:
    code, said = script("engine.sh", DOCKER_HOST="", ENGINE_SOCKET=str(engine))
    assert (code, said) == (0, "engine  version 99.1 answers\n")


def test_an_engine_that_was_named_and_does_not_answer_is_not_replaced(tmp_path: Path) -> None:
    code, said = script("engine.sh", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert code == 1
    assert "cannot be used: no answer at" in said
    assert "correct DOCKER_HOST, or unset it" in said


def test_a_socket_of_something_else_is_no_engine(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))  # bound, not listening: refuses
        code, said = script("engine.sh", DOCKER_HOST=f"unix://{path}")
    assert code == 1
    assert "refused" in said


def test_an_engine_elsewhere_is_refused_with_the_reason() -> None:
    code, said = script("engine.sh", DOCKER_HOST="tcp://engine.example:2375")
    assert code == 1
    assert "sandboxes are reached over sockets in a shared folder" in said


def test_a_python_that_was_named_must_fit(tmp_path: Path) -> None:
    code, said = script("venv.sh", VENV=str(tmp_path / "venv"), PYTHON="/bin/false")
    assert code == 1
    assert "PYTHON=/bin/false is not CPython 3.11 or 3.12" in said
    assert not (tmp_path / "venv").exists()


def test_the_locks_are_those_of_what_the_project_asks_for() -> None:
    done = subprocess.run([str(ROOT / "scripts/lock.sh"), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _program(folder: Path, name: str) -> str:
    (folder / name).touch(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(("program", "of"), [("redis-server", "redis.sh"), ("chromium", "chromium.sh")])
def test_what_only_tests_need_is_used_as_it_is_where_it_is_there(tmp_path: Path, program: str, of: str) -> None:
    assert script(of, PATH=_program(tmp_path, program)) == (0, "")


@pytest.mark.parametrize(("program", "of"), [("redis-server", "redis.sh"), ("chromium", "chromium.sh")])
def test_what_only_tests_need_and_cannot_be_installed_is_named(tmp_path: Path, program: str, of: str) -> None:
    for needed in ("bash", "dirname", "mkdir", "flock", "grep", "cat"):
        found = shutil.which(needed)
        assert found is not None
        (tmp_path / needed).symlink_to(found)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    code, said = script(of, PATH=str(tmp_path))
    assert code == 1
    assert f"there is no {program}" in said
    assert f"sudo apt-get install {program}" in said
