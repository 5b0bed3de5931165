"""The log of a real controller: its lines name tenant, notebook and execution, and nothing of what they do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.controller_process import Process

import cellyard
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import executions_pb2_grpc

WITHIN = 60.0
SECRET = "s3cr3t-d0-n0t-l0g"
CODE = f"""
import os, sys
# {SECRET}
print('{SECRET}', os.environ['KEY'])
sys.stderr.write('{SECRET}')
answer = input('{SECRET}')
tool('{SECRET}')
raise ValueError('{SECRET}')
"""


@pytest.fixture
def process(folder: Path) -> Iterator[Process]:
    process = Process(folder)
    env = {"CELLYARD_LOG__LEVEL": "debug", "CELLYARD_LOG__FORMAT": "json", "CELLYARD_DRAIN_TIMEOUT": "0"}
    process.start("--runtime", "process", env=env)
    yield process
    process.close()


def lines(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.log.read_text().splitlines()]


def test_no_line_holds_code_output_input_answers_environments_or_tokens(process: Process) -> None:
    def session(**more: Any) -> cellyard.Session:
        return cellyard.Session(notebook_id="nb", endpoint=process.endpoint, runtime="process", **more)

    def tool(text: str) -> str:
        raise LookupError(SECRET + text)

    with session(env={"KEY": SECRET}) as mine:
        mine.start_kernel()
        failed = mine.run(CODE, on_input=lambda _: SECRET, host_calls={"tool": lambda text: SECRET})
        assert failed.error is not None
        mine.run(f"tool('{SECRET}')", host_calls={"tool": tool})
        mine.upload(SECRET.encode(), "file")
        mine.set_metadata("key", SECRET)
        mine.exec(["sh", "-c", f"echo {SECRET}; exit 3"])
        with pytest.raises(cellyard.ExecutionTimeout):
            mine.run(f"while True: '{SECRET}'", timeout_secs=0.2)
        mine.run(f"import os; '{SECRET}'; os._exit(7)")
        with pytest.raises(cellyard.InvalidRequest):
            mine.create_cell(f"'{SECRET}' * 2" + "x" * 5_000_000)
    for token in (SECRET, f"cy_{SECRET}"):
        with pytest.raises(cellyard.Unauthenticated):
            session(token=token).connect()
    with grpc.insecure_channel(process.endpoint) as channel:
        stub = executions_pb2_grpc.ExecutionsStub(channel)
        broken = ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="c", source=SECRET), timeout_s=float("nan"))
        with pytest.raises(grpc.RpcError):
            stub.Enqueue(broken, timeout=WITHIN)
        raw = channel.unary_unary("/cellyard.v1.Executions/Enqueue", request_serializer=None)
        with pytest.raises(grpc.RpcError):
            raw(SECRET.encode(), timeout=WITHIN)
    assert process.stop() == 0
    assert SECRET not in process.log.read_text()


def test_lines_about_executions_and_sandboxes_say_whose_they_are(process: Process) -> None:
    for notebook in ("one", "two"):
        with cellyard.Session(notebook_id=notebook, endpoint=process.endpoint, runtime="process") as session:
            ids = {session.run("1").execution_id, session.run("import os; os._exit(7)").execution_id}
            session.run("2")
        said = [line for line in lines(process) if line.get("notebook_id") == notebook]
        assert {line["tenant"] for line in said} == {"local"}
        ended = {line["execution_id"]: line for line in said if line["event"] == "execution ended"}
        assert ids <= ended.keys()
        assert {line["level"] for line in ended.values() if line["end"] == "lost"} == {"info"}
        assert {line["level"] for line in ended.values() if line["end"] == "succeeded"} == {"debug"}
        assert {"execution accepted", "sandbox claimed", "sandbox ended"} <= {line["event"] for line in said}
    process.stop()
    for line in lines(process):  # what belongs to nobody is not said to be somebody's
        if line["event"] in ("ready", "stopping"):
            assert "notebook_id" not in line
