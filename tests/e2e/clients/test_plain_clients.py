"""Clients that are not ours: the .proto files and gRPC are all that they have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import google.protobuf
import google.rpc.status_pb2
import grpc
import pytest
import typing_extensions

import cellyard
from tests.controller_process import Process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
CLIENT = Path(__file__).with_name("plain_client.py")
STEPS = [
    "introduced",
    "edited",
    "ran",
    "read_large",
    "answered",
    "interrupted",
    "carried",
    "exported",
    "resumed",
    "main",
]


@pytest.fixture(scope="module")
def generated(module_folder: Path) -> Path:
    """Modules made from the .proto files just now, beside gRPC and protobuf, and nothing else."""
    path = module_folder / "path"
    path.mkdir()
    files = [str(file.relative_to(ROOT / "proto")) for file in sorted((ROOT / "proto").rglob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--python_out", str(path)]
    subprocess.run([*command, "--grpc_python_out", str(path), *files], cwd=ROOT / "proto", check=True)
    (path / "grpc").symlink_to(Path(grpc.__file__).parent)
    (path / "typing_extensions.py").symlink_to(typing_extensions.__file__)
    (path / "google").mkdir()
    (path / "google" / "protobuf").symlink_to(Path(google.protobuf.__file__).parent)
    (path / "google" / "_upb").symlink_to(Path(google.protobuf.__file__).parents[1] / "_upb")
    (path / "google" / "rpc").symlink_to(Path(google.rpc.status_pb2.__file__).parent)
    return path


@pytest.fixture(scope="module")
def tcp_controller(built_image: str, module_folder: Path) -> Iterator[tuple[Process, str]]:
    """A controller that listens on TCP too, and its address there."""
    process = Process(module_folder)
    process.start("--listen", "127.0.0.1:0", "--reflection")
    listens = re.search(r"127\.0\.0\.1:\d+", process.log.read_text())
    assert listens is not None
    yield process, listens.group()
    process.close()


def isolated(path: Path, program: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter that sees nothing but this path and the standard library."""
    command = [sys.executable, "-I", "-S", *program]
    return subprocess.run(command, cwd=path, capture_output=True, text=True, check=False, timeout=280)


def test_nothing_of_ours_can_be_imported_there(generated: Path) -> None:
    lookup = (
        "import sys; sys.path.insert(0, sys.argv[1]); import importlib.util as u;"
        "print([u.find_spec(n) for n in ('cellyard', 'cellyard_controller', 'pydantic')],"
        "list(u.find_spec('cellyard_proto').submodule_search_locations))"
    )
    done = isolated(generated, ["-c", lookup, str(generated)])
    assert done.stdout.strip() == f"[None, None, None] ['{generated}/cellyard_proto']", done.stderr


def test_everything_can_be_done_with_fresh_stubs(generated: Path, tcp_controller: tuple[Process, str]) -> None:
    controller, address = tcp_controller
    done = isolated(generated, [str(CLIENT), str(generated), controller.endpoint, address])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == STEPS


class Buf:
    """`buf curl`: a client in Go, which learns from reflection what there is."""

    def __init__(self, folder: Path, address: str, token: str) -> None:
        self._address, self._environment = address, {"HOME": str(folder), "PATH": os.environ["PATH"]}
        program = Path(sys.executable).with_name("buf")
        self._command = [str(program), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        self._command += ["--reflect-header", "*", "-H", f"authorization: Bearer {token}"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._command, *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=150, stdin=DEVNULL
        )

    def call(self, method: str, **message: Any) -> list[dict[str, Any]]:
        """The messages that a call gives, or what it is refused with."""
        done = self.run("-d", json.dumps(message), f"http://{self._address}/cellyard.v1.{method}")
        text, found = (done.stdout + done.stderr).strip(), []
        while text:
            one, end = json.JSONDecoder().raw_decode(text)
            found.append(one)
            text = text[end:].strip()
        return found


def test_a_program_in_another_language_runs_code_from_reflection_alone(
    tcp_controller: tuple[Process, str], module_folder: Path
) -> None:
    controller, address = tcp_controller
    with cellyard.Client(controller.endpoint) as operator:
        token = operator.create_tenant("gopher").token
    buf = Buf(module_folder, address, token)
    listed = buf.run("--list-services", f"http://{address}")
    assert "cellyard.v1.Executions" in listed.stdout.split(), listed.stderr

    (hello,) = buf.call("Sessions/Hello", client="buf", protocol=1)
    assert hello["tenant"] == "gopher"
    start = {"notebook_id": "nb", "request_id": "r", "source": {"cell_id": "c", "source": "print(6 * 7)"}}
    events = buf.call("Executions/Execute", **start)
    assert [event["output"]["stream"]["text"] for event in events if "output" in event] == ["42\n"]
    assert events[-1]["finished"]["end"] == "EXECUTION_END_SUCCEEDED"
    # The same request is the same execution, and the stream tells it from the beginning.
    again = buf.call("Executions/Execute", **start)
    assert again[0]["accepted"]["executionId"] == events[0]["accepted"]["executionId"]
    (refused,) = buf.call("Executions/Get", notebook_id="nb", execution_id="no such")
    assert refused["code"] == "not_found"
    assert refused["details"][0]["type"] == "google.rpc.ErrorInfo"
