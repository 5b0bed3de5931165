"""ControllerStorage against a real controller, as a process: what the protocol alone does not show."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.controller_process import Process

from cellyard.codemode.errors import (
    ArtifactDataError,
    ArtifactNameError,
    ArtifactNotFoundError,
    StorageError,
    ToolDefinitionError,
    WorkflowValidationError,
)
from cellyard.codemode.storage.controller import ControllerStorage
from cellyard.codemode.storage.protocols import StorageBackend, StoredTool, StoredWorkflow
from cellyard.errors import InvalidRequest

MIB = 1024 * 1024
WITHIN = 60.0
SOURCE = '"""Greets."""\n\nasync def run(name: str, times: int = 1):\n    return name * times\n'


class Bare(Process):
    """A controller that has no sandboxes, and asks no engine."""

    def start(self, *flags: str, env: dict[str, str] | None = None) -> None:
        super().start("--runtime", "process", *flags, env=env)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()


@pytest.fixture
def controller(folder: Path) -> Iterator[Bare]:
    controller = Bare(folder)
    yield controller
    controller.close()


@pytest.fixture(scope="module")
def shared(module_folder: Path) -> Iterator[Bare]:
    controller = Bare(module_folder)
    controller.start()
    yield controller
    controller.close()


@pytest.fixture
def storage(shared: Bare, request: pytest.FixtureRequest) -> Iterator[ControllerStorage]:
    """A storage on a workspace of this test's own."""
    storage = ControllerStorage(shared.endpoint, workspace_id=f"w{abs(hash(request.node.name))}")
    yield storage
    storage.close()


def test_it_is_a_storage_as_sessions_take_it(storage: ControllerStorage) -> None:
    assert isinstance(storage, StorageBackend)
    assert ControllerStorage("unix:/nowhere").workspace_id is None
    for wrong in ("", "a/b", "x" * 65, 5):
        with pytest.raises(InvalidRequest, match="workspace_id"):
            ControllerStorage(workspace_id=wrong)  # type: ignore[arg-type]


def test_workflows_are_there_for_everybody_as_they_were_written(storage: ControllerStorage, shared: Bare) -> None:
    library = storage.get_workflow_library()
    made = library.create("greet", SOURCE, "Says hello")
    assert library.get("greet") == made
    storage.get_workflow_store().put(StoredWorkflow("bare", SOURCE))
    other = ControllerStorage(shared.endpoint, workspace_id=storage.workspace_id).get_workflow_store()
    assert other.list() == [StoredWorkflow("bare", SOURCE, ""), StoredWorkflow("greet", SOURCE, "Says hello")]
    assert library.remove("bare")
    assert not library.remove("bare")
    assert other.get("bare") is None


@pytest.mark.parametrize("value", [None, True, 5, 2**70, 1.5, "", "[1]", "ü\r\n", b"", b"\0\xff", {"a": [None, {}]}])
def test_values_come_back_as_they_were(storage: ControllerStorage, value: Any) -> None:
    artifacts = storage.get_artifact_store()
    saved = artifacts.save("a/v", value, "Größe", {"by": ["me"]})
    assert artifacts.get("a/v") == saved
    assert artifacts.list() == [saved]
    assert (saved.path, saved.description, saved.metadata) == (
        f"controller:{storage.workspace_id}/a/v",
        "Größe",
        {"by": ["me"]},
    )
    back = artifacts.load("a/v")
    assert (back, type(back)) == (value, type(value))
    artifacts.delete("a/v")
    with pytest.raises(ArtifactNotFoundError, match="'a/v' not found"):
        artifacts.load("a/v")


def test_large_contents_pass_in_pieces(storage: ControllerStorage) -> None:
    store = storage.get_artifact_backend()
    info = store.write("large", "bytes", (bytes([number]) * MIB for number in range(20)), "", {})
    assert info.size == 20 * MIB
    _, pieces = store.read("large")
    position = 0
    for piece in pieces:
        assert len(piece) <= MIB
        assert piece[0] == position // MIB
        position += len(piece)
    assert position == info.size
    _, pieces = store.read("large")
    next(pieces)
    pieces.close()


def test_pieces_that_fail_leave_what_was_there(storage: ControllerStorage) -> None:
    def failing() -> Iterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    artifacts = storage.get_artifact_store()
    before = artifacts.save("v", "old")
    with pytest.raises(ZeroDivisionError):
        artifacts.write("v", "text", failing())
    assert artifacts.list() == [before]


def test_a_reader_gets_one_writing_whatever_is_written_meanwhile(storage: ControllerStorage) -> None:
    store = storage.get_artifact_backend()
    store.write("v", "bytes", [b"a" * (9 * MIB)], "", {})
    _, pieces = store.read("v")
    first = next(pieces)
    store.write("v", "text", [b"short"], "", {})
    assert first + b"".join(pieces) == b"a" * (9 * MIB)


@pytest.mark.parametrize("name", ["", "../a", "/a", ".hidden", "\ud800", "x" * 300])
def test_wrong_names_are_refused_alike_by_every_call(storage: ControllerStorage, name: str) -> None:
    store = storage.get_artifact_backend()
    for call in (
        lambda: store.write(name, "text", [b"x"], "", {}),
        lambda: store.read(name),
        lambda: store.info(name),
        lambda: store.remove(name),
    ):
        with pytest.raises(ArtifactNameError):
            call()
    for call in (
        lambda: storage.get_workflow_store().put(StoredWorkflow(name, SOURCE)),
        lambda: storage.get_workflow_store().remove(name),
    ):
        with pytest.raises(WorkflowValidationError):
            call()


def test_what_the_controller_refuses_has_its_class_here(storage: ControllerStorage) -> None:
    with pytest.raises(ArtifactDataError, match="one of"):
        storage.get_artifact_backend().write("a", "image", [b"x"], "", {})
    storage.get_artifact_store().save("c", 1)
    with pytest.raises(ArtifactNameError, match="'c' is an artifact"):
        storage.get_artifact_store().save("c/d", 1)
    with pytest.raises(WorkflowValidationError, match="Syntax error"):
        storage.get_workflow_store().put(StoredWorkflow("w", "def run(:"))


def test_tools_are_none_and_requirements_are_remembered(storage: ControllerStorage) -> None:
    tools, deps = storage.get_tool_store(), storage.get_deps_store()
    assert tools.list() == []
    with pytest.raises(StorageError, match="keeps no tools, and so not 'curl'"):
        tools.put(StoredTool("curl", b"", ""))
    with pytest.raises(ToolDefinitionError):
        tools.put(StoredTool("../a", b"", ""))
    assert not tools.remove("curl")
    deps.put("pandas>=1")
    deps.put("pandas==2")
    deps.put("six")
    assert deps.list() == ["pandas==2", "six"]
    assert deps.remove("Pandas")
    assert not deps.remove("pandas")


def test_threads_lose_nothing_and_a_closed_storage_is_opened_again(storage: ControllerStorage) -> None:
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for count in range(10):
                storage.get_artifact_store().save(f"t{number}/{count}", [number, count])
                storage.get_artifact_store().save("shared", str(number))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    storage.close()
    assert len(storage.get_artifact_store().list()) == 41
    assert storage.get_artifact_store().load("t3/7") == [3, 7]


def test_nobody_there_is_a_storage_error(folder: Path) -> None:
    with pytest.raises(StorageError, match="no controller"):
        ControllerStorage(f"unix:{folder}/none.sock").get_artifact_store().list()


def files(controller: Bare) -> list[Path]:
    return [path for path in (controller.data / "blobs").rglob("*") if path.is_file()]


def revive(controller: Bare) -> threading.Thread:
    """Starts the controller again as soon as it has died."""

    def wait_and_start() -> None:
        assert controller.process is not None
        assert controller.process.wait(WITHIN) == -signal.SIGKILL, "it was to die"
        controller.start()

    thread = threading.Thread(target=wait_and_start)
    thread.start()
    return thread


@pytest.mark.parametrize("point", ["artifact-received", "artifact-stored", "artifact-kept"])
def test_a_write_survives_the_controllers_death(controller: Bare, point: str) -> None:
    """Before its content has its name, between that and the commit, and behind the commit: it is kept once."""
    controller.start(env={"CELLYARD_FAULT": point})
    storage, thread = ControllerStorage(controller.endpoint), revive(controller)
    saved = storage.get_artifact_store().save("a", b"x" * MIB)
    thread.join()
    assert storage.get_artifact_store().list() == [saved]
    assert storage.get_artifact_store().load("a") == b"x" * MIB
    assert len(files(controller)) == 1
    storage.close()


@pytest.mark.parametrize("point", ["artifact-received", "artifact-stored"])
def test_what_was_never_kept_leaves_no_content_behind(controller: Bare, point: str) -> None:
    controller.start(env={"CELLYARD_FAULT": f"{point}:2"})
    storage = ControllerStorage(controller.endpoint)
    storage.get_artifact_store().save("kept", b"k" * MIB)
    storage._calls.transport.reconnect_s = 0.0
    with pytest.raises(StorageError):
        storage.get_artifact_store().save("lost", b"l" * MIB)
    assert controller.process is not None
    assert controller.process.wait(WITHIN) == -signal.SIGKILL
    assert len(files(controller)) == 2
    controller.start()  # which looks for what belongs to nobody
    waiting = threading.Event()
    for _ in range(int(WITHIN / 0.05)):
        if len(files(controller)) == 1:
            break
        waiting.wait(0.05)
    assert len(files(controller)) == 1
    storage.close()
    storage = ControllerStorage(controller.endpoint)
    assert [each.name for each in storage.get_artifact_store().list()] == ["kept"]
    assert storage.get_artifact_store().load("kept") == b"k" * MIB
    storage.close()


def test_a_reader_goes_on_behind_a_restart(controller: Bare) -> None:
    """It gets the rest of the same writing."""
    controller.start()
    storage = ControllerStorage(controller.endpoint)
    content = b"".join(bytes([number]) * MIB for number in range(40))
    storage.get_artifact_store().save("a", content)
    _, pieces = storage.get_artifact_backend().read("a")
    seen = next(pieces)
    controller.kill()
    controller.start()
    assert seen + b"".join(pieces) == content
    storage.close()


def test_the_process_that_reads_a_source_ends_with_it(shared: Bare, storage: ControllerStorage) -> None:
    storage.get_workflow_library().create("w", SOURCE)
    assert shared.process is not None
    listed = subprocess.run(
        ["ps", "--ppid", str(shared.process.pid), "-o", "args="], capture_output=True, text=True, check=False
    )
    assert "read_source" not in listed.stdout
