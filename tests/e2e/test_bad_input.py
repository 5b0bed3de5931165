"""Whatever is wrong: one clear sentence, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller_process import Process

pytestmark = pytest.mark.docker

DONE, FAILED, USAGE, NO_CONTROLLER, REFUSED, TIMED_OUT = 0, 1, 2, 3, 4, 124


def cellyard(*arguments: str | Path, env: dict[str, str] | None = None, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; stderr has no traceback of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "cellyard.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert "Traceback (most recent call last):\n  File" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("not json", "JSON"),
        ('{"some": "json"}', "notebook"),
        ('{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}', "nbformat"),
        (b"\xff\xfe\x00broken", "notebook"),
        (b" " * (50 * 1024 * 1024), "MiB"),
    ],
    ids=["empty", "no-json", "other-json", "nbformat-99", "no-text", "50-MiB"],
)
def test_what_is_no_notebook(write, content: str | bytes, says: str) -> None:
    code, out, err = cellyard("run", write("bad.ipynb", content))
    assert (code, out) == (USAGE, "")
    assert says in err
    assert len(err.strip().splitlines()) <= 2


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ipynb", tmp_path):
        code, _, err = cellyard("run", path)
        assert code == USAGE
        assert str(path) in err.replace("\n", "")


def test_a_kernel_that_nobody_has(write, shared_controller: Process) -> None:
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "cells": [],
        "metadata": {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}},
    }
    code, _, err = cellyard("run", write("r.ipynb", json.dumps(notebook)), "--endpoint", shared_controller.endpoint)
    assert code == USAGE
    assert "python" in err
    code, _, err = cellyard("run", "-", "--kernel", "cobol", "--endpoint", shared_controller.endpoint)
    assert code == USAGE
    assert "cobol" in err


def test_nobody_listens(tmp_path: Path) -> None:
    for command in (("run", "-"), ("status",), ("notebooks", "list")):
        code, _, err = cellyard(*command, "--endpoint", f"unix:{tmp_path}/none.sock")
        assert code == NO_CONTROLLER
        assert "none.sock" in err.replace("\n", "")


def test_what_the_code_does_is_the_exit_code(shared_controller: Process) -> None:
    at = ("--endpoint", shared_controller.endpoint)
    assert cellyard("run", "-", *at, stdin="print('hi')")[:2] == (DONE, "hi\n")
    code, out, err = cellyard("run", "-", *at, stdin="print('before'); 1/0")
    assert (code, out) == (FAILED, "before\n")
    assert "ZeroDivisionError" in err
    code, _, err = cellyard("run", "-", *at, "--timeout", "1", stdin="while True: pass")
    assert code == TIMED_OUT
    assert "timed out after 1" in err
    code, _, err = cellyard("run", "-", *at, "--require", "teleportation", stdin="1")
    assert code == USAGE
    code, _, err = cellyard("run", "-", *at, "--token", "cy_wrong", stdin="1")
    assert code == REFUSED
    assert "authentication failed" in err


def test_an_engine_that_is_not_there(tmp_path: Path, folder: Path) -> None:
    """The controller stays up and says why it is not ready; a run says what to do."""
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock"}
    process = Process(folder)
    process.start(env=nowhere)
    try:
        code, out, err = cellyard("status", "--endpoint", process.endpoint)
        assert code == NO_CONTROLLER
        assert "engine" in out + err
        code, _, err = cellyard("run", "-", "--endpoint", process.endpoint, stdin="1")
        assert code == REFUSED
        assert "no-engine.sock" in err.replace("\n", "")
    finally:
        process.close()
    code, out, _ = cellyard("doctor", env=nowhere)
    assert code == NO_CONTROLLER
    assert "no-engine.sock" in out


def test_the_doctor_knows_of_damaged_documents(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "7-analysis-0123456789ab.automerge").touch()
    code, out, _ = cellyard("doctor", "--data", tmp_path, env={"DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock"})
    assert code == NO_CONTROLLER
    assert "FAILED documents" in out
    assert "7-analysis-0123456789ab.automerge" in out


def test_an_image_that_is_missing(tmp_path: Path, folder: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[templates.default]\nimage = "cellyard-none:none"\n')
    process = Process(folder)
    process.start("--config", str(config))
    try:
        code, _, err = cellyard("run", "-", "--endpoint", process.endpoint, stdin="1")
        assert code == REFUSED
        assert "cellyard-none:none" in err
    finally:
        process.close()


def test_serve_says_what_it_cannot_do(folder: Path, shared_controller: Process) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = cellyard("serve", "--data", folder / "d", "--listen", f"127.0.0.1:{port}")
        assert code == NO_CONTROLLER
        assert "taken" in err
    code, _, err = cellyard("serve", "--data", folder / "d", "--listen", f"unix:/tmp/{'x' * 120}")
    assert code == USAGE
    assert "107" in err
    code, _, err = cellyard("serve", "--data", folder / "d", "--listen", "0.0.0.0:0")
    assert code == USAGE
    assert "tls" in err.lower()
    unix = f"unix:{folder}/s.sock"
    for http, says in (
        ("0.0.0.0:0", "tls"),
        ("nonsense", "no address"),
        (unix, "HOST:PORT"),
        ("127.0.0.1:x", "no add"),
    ):
        code, _, err = cellyard("serve", "--data", folder / "d", "--listen", unix, "--http", http)
        assert code == USAGE
        assert says in err.lower() or says in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = cellyard("serve", "--data", folder / "d", "--listen", unix, "--http", f"127.0.0.1:{port}")
        assert code == NO_CONTROLLER
        assert "in use" in err.lower()
    code, _, err = cellyard("serve", "--data", shared_controller.data, "--listen", f"unix:{folder}/s.sock")
    assert code == NO_CONTROLLER
    assert "in use by another controller" in err
    code, _, err = cellyard("serve", "--data", "/proc/nowhere", "--listen", f"unix:{folder}/s.sock")
    assert code == NO_CONTROLLER
    assert "data folder" in err


def test_configuration_that_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[sandboxes]\nstart_timeout = -1\n")
    code, _, err = cellyard("serve", "--data", tmp_path / "d", "--config", config)
    assert code == USAGE
    assert "sandboxes.start_timeout" in err
    config.write_text("unknown_key = 1\n")
    code, _, err = cellyard("serve", "--data", tmp_path / "d", "--config", config)
    assert code == USAGE
    assert "unknown_key" in err


def test_json_always_ends_with_a_result(tmp_path: Path, shared_controller: Process) -> None:
    nowhere = ("--endpoint", f"unix:{tmp_path}/none.sock")
    here = ("--endpoint", shared_controller.endpoint)
    for arguments, code, stdin in (
        (("run", tmp_path / "none.py", "--json"), USAGE, ""),
        (("run", "-", "--json", *nowhere), NO_CONTROLLER, "1"),
        (("run", "-", "--json", *here), FAILED, "1/0"),
        (("run", "-", "--json", *here), DONE, "print(1)"),
    ):
        ended, out, _ = cellyard(*arguments, stdin=stdin)
        events = [json.loads(line) for line in out.splitlines()]
        assert ended == code
        assert (events[-1]["type"], events[-1]["exit_code"]) == ("result", code)


def test_an_executed_notebook_that_could_not_be_written_is_refused_before_anything_runs(
    write, shared_controller: Process
) -> None:
    notebook = write("n.ipynb", '{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": []}')
    code, _, err = cellyard("run", notebook, "--out", "/proc/out.ipynb", "--endpoint", shared_controller.endpoint)
    assert code == USAGE
    assert "/proc/out.ipynb" in err
