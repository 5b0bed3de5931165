"""What is particular to folders: people and other programs write there too, links lie there, disks fill up."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cellyard.codemode.errors import ArtifactNameError, ArtifactNotFoundError, CodeModeError, StorageError
from cellyard.codemode.storage import folders
from cellyard.codemode.storage.file import FileStorage
from cellyard.codemode.storage.files import Fresh
from cellyard.codemode.storage.protocols import StoredTool, StoredWorkflow
from cellyard_proto import beneath

SOURCE = "def run(): pass\n"


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "base")


# The folder


def test_the_folder_is_made_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = FileStorage("~/a/b")
    assert storage.root == (tmp_path / "a" / "b").resolve()
    assert storage.root.is_dir()
    assert str(storage.root) in repr(storage)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", "a\x00b", ""):
        with pytest.raises(StorageError):
            FileStorage(wrong)


def test_a_folder_that_vanished_is_empty_and_is_made_again(storage: FileStorage) -> None:
    storage.root.rmdir()
    assert storage.get_artifact_store().list() == []
    storage.get_artifact_store().save("v", 1)
    assert storage.get_artifact_store().load("v") == 1


def test_others_can_read_what_lies_there(storage: FileStorage) -> None:
    storage.get_workflow_library().create("greet", SOURCE, "Says hello")
    storage.get_artifact_store().save("a/data.json", {"ü": [1]}, "Numbers", {"by": "me"})
    storage.get_tool_store().put(StoredTool("curl", b"name: curl\n", ""))
    for requirement in ("six", "numpy>=2"):
        storage.get_deps_store().put(requirement)
    root = storage.root
    assert (root / "workflows/greet.py").read_text() == SOURCE
    assert (root / "artifacts/a/data.json").read_text() == '{\n  "ü": [\n    1\n  ]\n}'
    entry = json.loads((root / "artifacts/.artifacts.json").read_text())["a/data.json"]
    assert entry["description"] == "Numbers"
    assert entry["metadata"] == {"by": "me", "_data_type": "json"}
    assert entry["created_at"].endswith("+00:00")
    assert (root / "tools/curl.yaml").read_text() == "name: curl\n"
    assert (root / "deps/requirements.txt").read_text() == "numpy>=2\nsix\n"
    FileStorage(root, "team").get_artifact_store().save("x", "y")
    assert (root / "workspaces/team/artifacts/x").read_text() == "y"


def test_nothing_unfinished_is_left(storage: FileStorage) -> None:
    for number in range(3):
        storage.get_artifact_store().save("v", number)
        storage.get_workflow_library().create("w", SOURCE)
    assert not [path for path in storage.root.rglob("*") if path.parent.name == ".new"]
    assert {path.name for path in (storage.root / "artifacts").iterdir()} == {".artifacts.json", ".lock", ".new", "v"}


# What people write by hand


def by_hand(storage: FileStorage, name: str, content: str | bytes) -> Path:
    path = storage.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_workflow_edited_by_hand_keeps_its_description(storage: FileStorage) -> None:
    storage.get_workflow_library().create("greet", SOURCE, "Says hello")
    by_hand(storage, "workflows/greet.py", '"""Other."""\ndef run(a): pass\n')
    found = storage.get_workflow_library().get("greet")
    assert found is not None
    assert (found.description, found.parameters[0].name) == ("Says hello", "a")


def test_workflows_written_by_hand_are_there_but_for_names_that_are_none(
    storage: FileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good", "_helper", "__init__", "a-b", "class", "é"):
        by_hand(storage, f"workflows/{name}.py", SOURCE)
    by_hand(storage, "workflows/broken.py", "def run(:\n")
    by_hand(storage, "workflows/latin.py", b'"""\xe9"""\ndef run(): pass\n')
    by_hand(storage, "workflows/endless.py", b"# " + b"x" * (5 << 20))
    by_hand(storage, "workflows/notes.txt", "")
    (storage.root / "workflows/folder.py").mkdir()
    library = storage.get_workflow_library()
    assert [each.name for each in library.list()] == ["good"]
    assert [each.name for each in storage.get_workflow_store().list()] == ["broken", "endless", "good", "latin"]
    assert {name for name in ("broken", "endless", "latin") if f"'{name}' is left out" in caplog.text} == {
        "broken",
        "endless",
        "latin",
    }
    assert library.get("_helper") is None
    assert library.get("folder") is None
    with pytest.raises(CodeModeError, match="Syntax error"):
        library.get("broken")


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("a.json", '{"a": 1}', {"a": 1}),
        ("a.json", "{broken", "{broken"),
        ("a.json", b"\xff", b"\xff"),
        ("a.txt", "grün", "grün"),
        ("a.txt", "[1]", "[1]"),
        ("sub/a", b"\x80\x00", b"\x80\x00"),
        ("a", "ü" * (1 << 20), "ü" * (1 << 20)),
        ("a", b"x" + "ü".encode() * (1 << 20), "x" + "ü" * (1 << 20)),
        ("empty", "", ""),
    ],
    ids=range(9),
)
def test_an_artifact_written_by_hand_is_what_it_reads_as(
    storage: FileStorage, name: str, content: str | bytes, value: object
) -> None:
    path = by_hand(storage, f"artifacts/{name}", content)
    os.utime(path, (1e9, 1e9))
    artifacts = storage.get_artifact_store()
    (info,) = artifacts.list()
    assert info == artifacts.get(name)
    assert (info.description, info.metadata, info.created_at) == ("", {}, datetime.fromtimestamp(1e9, UTC))
    assert artifacts.load(name) == value
    artifacts.save(name, 1, "now known")
    assert artifacts.load(name) == 1
    artifacts.delete(name)
    assert artifacts.list() == []


def test_an_artifact_whose_file_is_gone_is_gone(storage: FileStorage) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", 1, "old")
    (storage.root / "artifacts/v").unlink()
    assert artifacts.list() == []
    with pytest.raises(ArtifactNotFoundError):
        artifacts.load("v")


def test_files_that_no_artifact_can_be_called_after_are_left_alone(storage: FileStorage) -> None:
    for name in (".hidden", "a/.hidden", "new\nline", "back\\slash", "__index__"):
        by_hand(storage, f"artifacts/{name}", "x")
    os.mkfifo(storage.root / "artifacts/pipe")
    deep = storage.root / "artifacts"
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert storage.get_artifact_store().list() == []
    with pytest.raises(StorageError, match="no file"):
        storage.get_artifact_store().load("pipe")
    with pytest.raises(StorageError):
        storage.get_artifact_store().save("pipe", "x")


def test_an_empty_folder_makes_room_and_one_with_something_does_not(storage: FileStorage) -> None:
    (storage.root / "artifacts/empty").mkdir(parents=True)
    by_hand(storage, "artifacts/full/.keep", "")
    storage.get_artifact_store().save("empty", 1)
    with pytest.raises(ArtifactNameError, match="is a folder"):
        storage.get_artifact_store().save("full", 1)
    assert (storage.root / "artifacts/full/.keep").exists()


def test_an_index_of_another_program_is_read_and_kept(storage: FileStorage) -> None:
    theirs = {"description": "d", "created_at": "2024-05-06T07:08:09+02:00", "metadata": {"_data_type": "json", "a": 1}}
    strange = {"half": {"metadata": None}, "no entry": 5, "gone": {"description": "kept"}}
    by_hand(storage, "artifacts/.artifacts.json", json.dumps({"x": theirs, **strange}))
    by_hand(storage, "artifacts/x", "[1]")
    by_hand(storage, "artifacts/half", "text")
    by_hand(storage, "artifacts/no entry", "text")
    artifacts = storage.get_artifact_store()
    assert artifacts.load("x") == [1]
    info = artifacts.get("x")
    assert info is not None
    assert (info.description, info.metadata) == ("d", {"a": 1})
    assert info.created_at.isoformat() == "2024-05-06T05:08:09+00:00"
    assert artifacts.load("half") == artifacts.load("no entry") == "text"
    artifacts.save("mine", 1)
    index = json.loads((storage.root / "artifacts/.artifacts.json").read_text())
    assert {key: index[key] for key in ("x", *strange)} == {"x": theirs, **strange}


@pytest.mark.parametrize("damage", [b"{", b"[]", b"", b"\xff\xfe", b"[" * 100_000, b'{"v": {"desc'], ids=range(6))
def test_a_damaged_index_is_set_aside_and_the_files_are_there(
    storage: FileStorage, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts, library = storage.get_artifact_store(), storage.get_workflow_library()
    artifacts.save("v", "text", "lost")
    library.create("w", SOURCE, "lost")
    for index in ("artifacts/.artifacts.json", "workflows/.workflows.json"):
        by_hand(storage, index, damage)
    assert artifacts.load("v") == "text"
    assert [each.name for each in library.list()] == ["w"]
    assert "is damaged" in caplog.text
    artifacts.save("new", 1, "kept")
    library.create("new", SOURCE, "kept")
    for folder in ("artifacts", "workflows"):
        (aside,) = (storage.root / folder).glob(".*.json.damaged-*")
        assert aside.read_bytes() == damage
        assert str(aside) in caplog.text
    caplog.clear()
    assert [(each.name, each.description) for each in artifacts.list()] == [("new", "kept"), ("v", "")]
    assert [each.description for each in library.list()] == ["kept", ""]
    assert caplog.text == ""


def test_tools_may_end_in_yml_and_the_full_ending_goes_before(
    storage: FileStorage, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.yml", "b.yaml", "b.yml", "c.txt", ".d.yaml"):
        by_hand(storage, f"tools/{name}", name)
    tools = storage.get_tool_store()
    assert [(each.name, each.text) for each in tools.list()] == [("a", b"a.yml"), ("b", b"b.yaml")]
    assert "b.yml is left out" in caplog.text
    tools.put(StoredTool("a", b"new", ""))
    assert not (storage.root / "tools/a.yml").exists()
    assert tools.remove("b")
    assert [(each.name, each.text) for each in tools.list()] == [("a", b"new")]


def test_requirements_written_by_hand_stay(storage: FileStorage) -> None:
    by_hand(storage, "deps/requirements.txt", "# why\nSix>=1  # because\n\n-e ./here\nnumpy\n")
    deps = storage.get_deps_store()
    assert deps.list() == ["-e ./here", "Six>=1", "numpy"]
    deps.put("six==2")
    assert (storage.root / "deps/requirements.txt").read_text() == "# why\n-e ./here\nnumpy\nsix==2\n"


def test_files_that_cannot_be_read_are_left_out_with_a_warning(
    folder: Path, nobody: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder.chmod(0o755)
    storage = FileStorage(folder / "base")
    for name in ("workflows/{}.py", "artifacts/{}", "tools/{}.yaml"):
        by_hand(storage, name.format("good"), SOURCE)
        by_hand(storage, name.format("closed"), SOURCE).chmod(0)
        os.mkfifo(storage.root / name.format("pipe"))
    nobody()
    assert [each.name for each in storage.get_workflow_library().list()] == ["good"]
    assert [each.name for each in storage.get_artifact_store().list()] == ["good"]
    assert [each.name for each in storage.get_tool_store().list()] == ["good"]
    assert caplog.text.count("Permission denied") == 3
    assert caplog.text.count("pipe.py is no file") == caplog.text.count("pipe.yaml is no file") == 1
    with pytest.raises(StorageError, match="Permission denied"):
        storage.get_artifact_store().load("closed")
    with pytest.raises(StorageError, match="Permission denied"):
        storage.get_workflow_library().get("closed")


# Links


@pytest.fixture(params=["openat2", "walking"])
def outside(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the kernel's help and without: a folder with all that a storage has, of which nothing may be touched."""
    if request.param == "walking":
        monkeypatch.setattr(beneath, "_openat2", _no_such_call)
    theirs = FileStorage(tmp_path / "outside")
    theirs.get_workflow_library().create("w", SOURCE, "secret")
    theirs.get_artifact_store().save("v", "secret")
    theirs.get_tool_store().put(StoredTool("t", b"secret", ""))
    theirs.get_deps_store().put("secret")
    return theirs.root


def _no_such_call(*_: object) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def calls(storage: FileStorage, kind: str) -> list[Callable[[], object]]:
    workflows, artifacts = storage.get_workflow_store(), storage.get_artifact_backend()
    tools, deps = storage.get_tool_store(), storage.get_deps_store()
    table: dict[str, list[Callable[[], object]]] = {
        "workflows": [
            workflows.list,
            lambda: workflows.get("w"),
            lambda: workflows.put(StoredWorkflow("w", SOURCE)),
            lambda: workflows.remove("w"),
        ],
        "artifacts": [
            artifacts.list,
            lambda: artifacts.info("v"),
            lambda: artifacts.read("v"),
            lambda: artifacts.write("v", "text", [b"x"], "", {}),
            lambda: artifacts.remove("v"),
        ],
        "tools": [tools.list, lambda: tools.put(StoredTool("t", b"", "")), lambda: tools.remove("t")],
        "deps": [deps.list, lambda: deps.put("six"), lambda: deps.remove("secret")],
    }
    return table[kind]


@pytest.mark.parametrize("kind", ["workflows", "artifacts", "tools", "deps"])
@pytest.mark.parametrize("workspace", [None, "team"])
def test_a_linked_folder_is_refused(storage: FileStorage, outside: Path, kind: str, workspace: str | None) -> None:
    before = everything(outside)
    scope = storage.root
    if workspace is not None and kind in ("workflows", "artifacts"):
        (storage.root / "workspaces").mkdir()
        scope = storage.root / "workspaces" / workspace
        scope.symlink_to(outside)  # the workspace's folder itself
    else:
        (scope / kind).symlink_to(outside / kind)
    for call in calls(FileStorage(storage.root, workspace), kind):
        with pytest.raises(StorageError, match="symbolic link"):
            call()
    assert everything(outside) == before


def test_a_linked_file_is_refused_and_left_out_of_lists(storage: FileStorage, outside: Path) -> None:
    before = everything(outside)
    for name in ("workflows/w.py", "artifacts/v", "tools/t.yaml", "deps/requirements.txt"):
        (storage.root / name).parent.mkdir(exist_ok=True)
        (storage.root / name).symlink_to(outside / name)
    assert storage.get_workflow_store().list() == []
    assert storage.get_artifact_store().list() == []
    assert storage.get_tool_store().list() == []
    refused = [*calls(storage, "workflows")[1:], *calls(storage, "artifacts")[1:], *calls(storage, "deps")]
    for call in (*refused, calls(storage, "tools")[1]):
        with pytest.raises(StorageError, match="symbolic link"):
            call()
    assert not storage.get_tool_store().remove("t")
    assert everything(outside) == before
    assert (storage.root / "artifacts/v").is_symlink()


@pytest.mark.parametrize("name", [".lock", ".new", ".artifacts.json"])
def test_links_in_place_of_the_storages_own_files_are_refused(storage: FileStorage, outside: Path, name: str) -> None:
    storage.get_artifact_store().save("v", "mine")
    own = storage.root / "artifacts" / name
    if own.is_dir():
        own.rmdir()
    else:
        own.unlink()
    own.symlink_to(outside / "artifacts" / name)
    before = everything(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        storage.get_artifact_store().save("v", "new")
    assert everything(outside) == before
    own.unlink()
    assert storage.get_artifact_store().load("v") == "mine"


def test_a_linked_folder_among_artifacts_is_refused(storage: FileStorage, outside: Path) -> None:
    before = everything(outside)
    (storage.root / "artifacts").mkdir()
    (storage.root / "artifacts/sub").symlink_to(outside / "artifacts")
    artifacts = storage.get_artifact_store()
    assert artifacts.list() == []
    for call in (
        lambda: artifacts.load("sub/v"),
        lambda: artifacts.save("sub/v", 1),
        lambda: artifacts.save("sub/x", 1),
        lambda: artifacts.save("sub", 1),
        lambda: artifacts.delete("sub/v"),
        lambda: artifacts.get("sub/v"),
    ):
        with pytest.raises(StorageError, match="symbolic link"):
            call()
    assert everything(outside) == before


# Writers that end, disks that are full, others that hang


class _Ended(BaseException):
    """Stands for the end of a program."""


@pytest.mark.parametrize("at", ["before the file is in place", "after it is"])
@pytest.mark.parametrize("first", [False, True], ids=["again", "first"])
def test_a_writer_that_ends_between_index_and_file_leaves_one_of_both_whole(
    storage: FileStorage, at: str, first: bool
) -> None:
    artifacts = storage.get_artifact_store()
    if not first:
        artifacts.save("v", b"old", "old", {"of": "old"})
    program = """
import os, signal, sys
from cellyard.codemode.storage import folders
from cellyard.codemode.storage.file import FileStorage

put = folders.Folder.put
def ending(self, file, names):
    if names == ("v",):
        if sys.argv[2] == "after it is":
            put(self, file, names)
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, file, names)
folders.Folder.put = ending
FileStorage(sys.argv[1]).get_artifact_store().save("v", {"new": 1}, "new", {"of": "new"})
"""
    done = subprocess.run([sys.executable, "-c", program, str(storage.root), at], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL

    def check() -> None:
        if at == "after it is":
            assert artifacts.load("v") == {"new": 1}
            (known,) = artifacts.list()
            assert (known.description, known.metadata) == ("new", {"of": "new"})
        elif first:
            assert artifacts.list() == [] or [each.name for each in artifacts.list()] == ["other"]
        else:
            assert artifacts.load("v") == b"old"
            (known,) = [each for each in artifacts.list() if each.name == "v"]
            assert (known.description, known.metadata) == ("old", {"of": "old"})

    check()
    waiting = list((storage.root / "artifacts/.new").iterdir())
    for path in waiting:
        os.utime(path, (1e9, 1e9))
    storage.get_artifact_store().save("other", 1)
    storage.get_artifact_store().delete("other")
    check()
    storage.get_artifact_store().save("other", 1)
    assert list((storage.root / "artifacts/.new").iterdir()) == []
    storage.get_artifact_store().delete("other")
    check()


def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not(storage: FileStorage) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", 1)
    new = storage.root / "artifacts/.new"
    (new / "dead").write_bytes(b"x")
    os.utime(new / "dead", (1e9, 1e9))

    def slow() -> Iterator[bytes]:
        yield b"piece"
        for path in new.iterdir():
            os.utime(path, (1e9, 1e9))
        FileStorage(storage.root).get_artifact_store().save("other", 1)
        yield b"s"

    artifacts.write("slow", "text", slow())
    assert artifacts.load("slow") == "pieces"
    assert list(new.iterdir()) == []


def test_a_full_disk_is_told_and_the_old_content_stays(storage: FileStorage) -> None:
    storage.get_artifact_store().save("v", "old", "kept")
    program = """
import resource, sys
from cellyard.codemode.errors import StorageError
from cellyard.codemode.storage.file import FileStorage

store = FileStorage(sys.argv[1]).get_artifact_store()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for size in (200_000, 5_000_000):
    try:
        store.save("v", b"x" * size)
    except StorageError as full:
        print(full.retryable, full)
store.save("small", "fits")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(storage.root)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("True") == 2
    assert "File too large" in done.stdout
    assert [each.name for each in storage.get_artifact_store().list()] == ["small", "v"]
    assert storage.get_artifact_store().load("v") == "old"
    assert list((storage.root / "artifacts/.new").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_name_that_cannot_be_given_takes_nothing_back(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", "old", "kept")
    put = folders.Folder.put

    def refusing(self: folders.Folder, file: Fresh, names: tuple[str, ...]) -> None:
        if names[-1] == "v":
            raise OSError(28, "No space left on device")
        put(self, file, names)

    monkeypatch.setattr(folders.Folder, "put", refusing)
    with pytest.raises(StorageError, match="No space left") as full:
        artifacts.save("v", b"new", "new")
    assert full.value.retryable
    with pytest.raises(StorageError):
        artifacts.save("below/v", b"new", "new")
    monkeypatch.undo()
    (known,) = artifacts.list()
    assert (known.description, artifacts.load("v")) == ("kept", "old")
    assert list((storage.root / "artifacts/.new").iterdir()) == []
    assert not (storage.root / "artifacts/below").exists()


def test_a_lock_that_somebody_sits_on_is_told(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    storage.get_artifact_store().save("v", 1)
    monkeypatch.setattr(folders, "LOCK_WITHIN_S", 0.05)
    with (storage.root / "artifacts/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for call in (lambda: storage.get_artifact_store().load("v"), lambda: storage.get_artifact_store().save("v", 2)):
            with pytest.raises(StorageError, match="locked by another program") as told:
                call()
            assert told.value.retryable
    assert storage.get_artifact_store().load("v") == 1


def test_readers_in_a_row_keep_no_writer_out(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = storage.get_artifact_store()
    for number in range(100):
        artifacts.save(f"x{number}", number)
    monkeypatch.setattr(folders, "LOCK_WITHIN_S", 10.0)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            FileStorage(storage.root).get_artifact_store().list()

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for number in range(10):
            artifacts.save("v", number)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert artifacts.load("v") == 9


@pytest.fixture
def nobody() -> Iterator[Callable[[], None]]:
    """Calling it makes this process a user's who may do nothing, because nothing keeps root from writing."""
    before = os.geteuid()
    yield lambda: os.seteuid(65534 if before == 0 else before)
    os.seteuid(before)


@pytest.fixture
def read_only() -> Iterator[Callable[[list[Path]], None]]:
    """Takes the right to write from folders, until the test is over."""
    taken: list[Path] = []

    def take(paths: list[Path]) -> None:
        taken.extend(paths)
        for path in paths:
            path.chmod(0o555)

    yield take
    for path in taken:
        path.chmod(0o755)


def test_whoever_may_only_read_reads(
    folder: Path, read_only: Callable[[list[Path]], None], nobody: Callable[[], None]
) -> None:
    folder.chmod(0o755)
    storage = FileStorage(folder / "base")
    storage.get_artifact_store().save("v", "text", "known")
    storage.get_workflow_library().create("w", SOURCE, "known")
    (storage.root / "workflows/.lock").unlink()
    read_only([storage.root, *(path for path in storage.root.rglob("*") if path.is_dir())])
    nobody()
    assert storage.get_artifact_store().load("v") == "text"
    assert storage.get_artifact_store().list()[0].description == "known"
    assert storage.get_workflow_library().list()[0].description == "known"
    for call in (lambda: storage.get_artifact_store().save("v", 1), lambda: storage.get_workflow_library().remove("w")):
        with pytest.raises(StorageError, match="Permission denied") as refused:
            call()
        assert not refused.value.retryable


def test_no_descriptor_stays_open(storage: FileStorage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    artifacts, library = storage.get_artifact_store(), storage.get_workflow_library()

    def round_trip() -> None:
        artifacts.save("a/b", 1)
        for wrong in ("a", "a/b/c"):
            with pytest.raises(ArtifactNameError):
                artifacts.save(wrong, 1)
        artifacts.load("a/b")
        artifacts.read("a/b")
        next(artifacts.read("a/b")[1])
        artifacts.list()
        library.create("w", SOURCE)
        library.list()
        storage.get_deps_store().put("six")
        storage.get_tool_store().list()
        artifacts.delete("a/b")

    round_trip()
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        round_trip()
    assert len(os.listdir("/proc/self/fd")) == len(before)
