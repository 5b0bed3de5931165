"""Code in real containers keeps workflows and artifacts with nobody's client serving them."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

import cellyard
from cellyard.codemode.storage.controller import ControllerStorage
from tests.controller_process import Process

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
WITHIN = 60.0
CALL = """
from cellyard_sandbox import host

def artifacts(operation, **given):
    return host.call("codemode.artifacts", operation, **given)

def workflows(operation, **given):
    return host.call("codemode.workflows", operation, **given)
"""


def opened(controller: Process, notebook: str | None = None, **more: object) -> cellyard.Session:
    session = cellyard.Session(notebook, endpoint=controller.endpoint, **more)  # type: ignore[arg-type]
    session.run(CALL)
    return session


def test_code_keeps_values_and_workflows_for_the_next_code(shared_controller: Process) -> None:
    values = "[None, True, 5, 1.5, 'ü', b'\\x00\\xff', {'a': [1, None]}]"
    with opened(shared_controller) as session:
        save = f"for number, value in enumerate({values}):\n    artifacts('save', name=f'e2e/{{number}}', data=value)"
        assert session.run(save).success
        create = "workflows('create', name='double', source='def run(n: int): return 2 * n', description='Doubles')"
        assert session.run(create).value["parameters"][0]["type"] == "integer"
    with opened(shared_controller) as session:
        load = f"[artifacts('load', name=f'e2e/{{number}}')['data'] for number in range(7)] == {values}"
        assert session.run(load).value is True
        assert session.run("[each['name'] for each in workflows('search', query='doubles')]").value == ["double"]
        run = "scope = {}\nexec(workflows('get', name='double')['source'], scope)\nscope['run'](21)"
        assert session.run(run).value == 42
    storage = ControllerStorage(shared_controller.endpoint)
    assert storage.get_artifact_store().load("e2e/4") == "ü"
    storage.get_artifact_store().delete("e2e/4")
    storage.close()


def test_twenty_megabytes_go_through_files_of_the_sandbox(shared_controller: Process) -> None:
    content = bytes(range(256)) * (20 * MIB // 256)
    with opened(shared_controller) as session:
        save = (
            "open('large.bin', 'wb').write(bytes(range(256)) * (20 * 1024 * 1024 // 256))\n"
            "artifacts('save', name='large', file={'path': 'large.bin', 'type': 'bytes'}, description='20 MB')['name']"
        )
        assert session.run(save).value == "large"
        load = (
            "import hashlib\nloaded = artifacts('load', name='large', into='back/large.bin')\n"
            "loaded, hashlib.sha256(open('back/large.bin', 'rb').read()).hexdigest()"
        )
        loaded, digest = session.run(load).value
        assert loaded == {"type": "bytes", "file": "back/large.bin"}
        assert digest == hashlib.sha256(content).hexdigest()
        refused = session.run("artifacts('save', name='x', file={'path': 'back', 'type': 'bytes'})").error
        assert (refused.ename, refused.evalue.split(":")[0]) == ("HostCallError", "StorageError")
        climbs = session.run("artifacts('load', name='large', into='../large')").error
        assert climbs.evalue.startswith("CodeModeError: the path '../large'")
    storage = ControllerStorage(shared_controller.endpoint)
    assert storage.get_artifact_store().load("large") == content
    storage.close()


def test_what_goes_wrong_is_an_exception_that_names_its_class(shared_controller: Process) -> None:
    with opened(shared_controller) as session:
        missing = session.run("artifacts('load', name='missing')").error
        assert (missing.ename, missing.evalue) == (
            "HostCallError",
            "ArtifactNotFoundError: Artifact 'missing' not found",
        )
        tools = session.run("host.call('codemode.tools', 'list')").error
        assert tools.ename == "HostUnavailable"
        assert "tools and packages are its alone" in tools.evalue


def test_an_execution_whose_client_has_left_still_keeps_things(shared_controller: Process) -> None:
    session = opened(shared_controller, "detached")
    code = (
        "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\n"
        "artifacts('save', name='left', data=1)['name']"
    )
    execution_id = session.queue_cell(session.create_cell(code))
    session._transport.close()  # as a client that dies
    with cellyard.Session("detached", endpoint=shared_controller.endpoint) as other:
        other.upload(b"", "go")
        assert other.wait(execution_id, timeout=WITHIN).value == "left"
    storage = ControllerStorage(shared_controller.endpoint)
    assert storage.get_artifact_store().load("left") == 1
    storage.close()


def test_tenants_keep_theirs_apart(controller: Process) -> None:
    with cellyard.Client(controller.endpoint) as operator:
        tokens = {name: operator.create_tenant(name).token for name in ("alice", "bob")}
    for name, token in tokens.items():
        with opened(controller, "nb", token=token) as session:
            assert session.run("[each['name'] for each in artifacts('list')]").value == []
            assert session.run(f"artifacts('save', name='of', data={name!r})").success
    for name, token in tokens.items():
        storage = ControllerStorage(controller.endpoint, token=token)
        assert storage.get_artifact_store().load("of") == name
        storage.close()


@pytest.mark.parametrize("point", ["artifact-stored", "artifact-kept", "call-served"])
def test_a_call_survives_the_controllers_death_and_is_carried_out_once(
    built_image: str, folder: Path, point: str
) -> None:
    """Whether before its effect is on disk, before its answer is, or in between: the code gets the one answer."""
    process = Process(folder)
    try:
        process.start("--on-stop", "keep")
        session = opened(process, "nb")
        session.run("artifacts('save', name='a', data='there before')")
        assert process.stop() == 0
        process.start(env={"CELLYARD_FAULT": point})

        def wait_and_start() -> None:
            assert process.process is not None
            assert process.process.wait(WITHIN) == -9, "it was to die"
            process.start()

        thread = threading.Thread(target=wait_and_start)
        thread.start()
        result = session.run("first = artifacts('save', name='a', data='now')\nfirst['created_at']")
        thread.join()
        assert result.success, result.error
        assert session.run("artifacts('get', name='a')['created_at']").value == result.value
        assert session.run("artifacts('load', name='a')['data']").value == "now"
        assert session.run("workflows('delete', name='none')").value is False
        session.close()
    finally:
        process.close()
