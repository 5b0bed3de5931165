"""What every storage does alike: one suite over all kinds of them (places.py)."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.codemode.conftest import Place
from tests.integration.codemode.places import PLACES

from cellyard.codemode.errors import (
    ArtifactDataError,
    ArtifactNameError,
    ArtifactNotFoundError,
    CodeModeError,
    DependencyError,
    ToolDefinitionError,
    WorkflowValidationError,
)
from cellyard.codemode.storage.library import WorkflowLibrary
from cellyard.codemode.storage.protocols import StorageBackend, StoredTool, StoredWorkflow
from cellyard.errors import CellyardError, InvalidRequest

SOURCE = '"""Greets."""\n\nasync def run(name: str, times: int = 1):\n    return name * times\n'
MIB = 1 << 20
keeping_all = pytest.mark.parametrize(
    "fresh", [name for name, kind in PLACES.items() if kind.keeps_all], indirect=True, scope="module"
)
"""For what a controller leaves to its clients: tools and requirements."""
few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class Words:
    """A search that counts words in common."""

    def rank(self, query: str, documents: Any, limit: int) -> list[int]:
        scores = [len(set(query.split()) & set(text.split())) for text in documents]
        return sorted((n for n in range(len(scores)) if scores[n]), key=lambda n: -scores[n])[:limit]


# Workflows


def test_a_storage_is_what_sessions_take(storage: StorageBackend) -> None:
    assert isinstance(storage, StorageBackend)
    assert storage.workspace_id is None


def test_an_empty_place_has_nothing(storage: StorageBackend) -> None:
    library, artifacts = storage.get_workflow_library(), storage.get_artifact_store()
    assert (library.list(), artifacts.list()) == ([], [])
    assert (storage.get_tool_store().list(), storage.get_deps_store().list()) == ([], [])
    assert (library.get("x"), artifacts.get("x"), artifacts.exists("x")) == (None, None, False)
    assert not library.remove("x")
    assert not storage.get_tool_store().remove("x")
    assert not storage.get_deps_store().remove("x")
    with pytest.raises(ArtifactNotFoundError, match="'x' not found"):
        artifacts.load("x")
    artifacts.delete("x")  # as it is said of sessions: without effect


def test_a_workflow_is_there_for_everybody_as_it_was_written(storage: StorageBackend, place: Place) -> None:
    made = storage.get_workflow_library().create("greet", SOURCE, "Says hello")
    other = place.open().get_workflow_library()
    assert other.get("greet") == made
    assert other.list() == [made]
    assert (made.source, made.description) == (SOURCE, "Says hello")
    assert [(each.name, each.type, each.required, each.default) for each in made.parameters] == [
        ("name", "string", True, None),
        ("times", "integer", False, 1),
    ]


def test_a_description_that_was_not_given_is_the_sources_own(storage: StorageBackend) -> None:
    library = storage.get_workflow_library()
    library.create("greet", SOURCE)
    assert storage.get_workflow_store().get("greet") == StoredWorkflow("greet", SOURCE, "")
    (found,) = library.list()
    assert found.description == "Greets."


def test_nothing_of_a_replaced_workflow_is_left(storage: StorageBackend) -> None:
    library = storage.get_workflow_library()
    library.create("greet", SOURCE, "Says hello")
    library.create("greet", "def run(): pass\n")
    found = library.get("greet")
    assert found is not None
    assert (found.source, found.description, found.parameters) == ("def run(): pass\n", "", ())


def test_a_removed_workflow_is_gone_with_its_description(storage: StorageBackend) -> None:
    library = storage.get_workflow_library()
    library.create("greet", SOURCE, "Says hello")
    assert library.remove("greet")
    assert not library.remove("greet")
    assert library.get("greet") is None
    library.create("greet", SOURCE)
    assert [each.description for each in library.list()] == ["Greets."]


def test_workflows_come_by_name(storage: StorageBackend) -> None:
    library = storage.get_workflow_library()
    for name in ("b", "_c", "A", "a1", "Z9_"):
        library.create(name, SOURCE)
    assert [each.name for each in library.list()] == ["A", "Z9_", "_c", "a1", "b"]
    assert library.get("_c") is not None
    assert library.remove("_c")
    assert library.get("_c") is None


@pytest.mark.parametrize("name", ["", "a-b", "a b", "a.b", "a/b", "../a", "1a", "é", "class", "list", "__a", "a" * 65])
def test_the_same_names_of_workflows_are_refused(storage: StorageBackend, name: str) -> None:
    library = storage.get_workflow_library()
    with pytest.raises(WorkflowValidationError):
        library.create(name, SOURCE)
    with pytest.raises(WorkflowValidationError):
        storage.get_workflow_store().put(StoredWorkflow(name, SOURCE))
    with pytest.raises(WorkflowValidationError):
        library.remove(name)
    assert library.get(name) is None
    assert library.list() == []


@pytest.mark.parametrize("source", ["def run(:\n", "x = 1\n", "def other(): pass\n", "\x00", "def run(): '\ud800'", ""])
def test_a_source_that_is_none_replaces_nothing(storage: StorageBackend, source: str) -> None:
    library = storage.get_workflow_library()
    made = library.create("greet", SOURCE, "Says hello")
    with pytest.raises(WorkflowValidationError):
        library.create("greet", source)
    with pytest.raises(WorkflowValidationError):
        storage.get_workflow_store().put(StoredWorkflow("greet", source))
    assert library.list() == [made]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_a_source_keeps_its_line_ends(storage: StorageBackend, end: str) -> None:
    source = f"def run():{end or chr(10)}    return 'ü \U0001f600'{end}"
    storage.get_workflow_library().create("w", source, "Größe \U0001f600")
    assert storage.get_workflow_store().get("w") == StoredWorkflow("w", source, "Größe \U0001f600")


def test_workflows_are_found_by_what_they_say(storage: StorageBackend) -> None:
    library = WorkflowLibrary(storage.get_workflow_store(), Words())
    library.create("first", SOURCE, "says hello to you")
    library.create("second", SOURCE, "says goodbye")
    assert [each.name for each in library.search("goodbye", 5)] == ["second"]
    assert len(library.search("says", 1)) == 1


# Artifacts: values

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4)
    ),
    max_leaves=15,
)


@few
@given(value=plain | st.binary(max_size=200))
def test_values_come_back_as_they_were(storage: StorageBackend, value: Any) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", value)
    back = artifacts.load("v")
    assert back == value
    assert repr(back) == repr(value)  # which tells 1 from 1.0 and True, at every depth


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (None, "json"),
        (True, "json"),
        (5, "json"),
        (1.5, "json"),
        ([], "json"),
        ({"a": [None]}, "json"),
        ("", "text"),
        ("null", "text"),
        ("[1]", "text"),
        (b"", "bytes"),
        (b"text", "bytes"),
    ],
)
def test_a_type_is_kept_whatever_the_name_says(storage: StorageBackend, value: Any, type_: str) -> None:
    artifacts = storage.get_artifact_store()
    for name in ("x.json", "x.txt", "x"):
        assert artifacts.save(name, value).type == type_
        back = artifacts.load(name)
        assert (back, type(back)) == (value, type(value))
        known = artifacts.get(name)
        assert known is not None
        assert known.type == type_


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: 2}, {1, 2}, float("nan"), float("inf"), [(1,)], {"a": {None: 1}}, object(), "\ud800", ["\udfff"], 1j],
    ids=range(11),
)
def test_what_would_come_back_as_something_else_replaces_nothing(storage: StorageBackend, value: Any) -> None:
    artifacts = storage.get_artifact_store()
    before = artifacts.save("v", "old", "kept", {"a": 1})
    with pytest.raises(ArtifactDataError):
        artifacts.save("v", value)
    with pytest.raises(ArtifactDataError):
        artifacts.save("other", value)
    assert artifacts.list() == [before]
    assert artifacts.load("v") == "old"


@pytest.mark.parametrize(
    "metadata",
    [{"a": float("nan")}, {1: 2}, {"_data_type": "bytes"}, {"a": "x" * 70_000}, ["a"]],
    ids=lambda m: repr(m)[:20],
)
def test_metadata_that_cannot_be_kept_replaces_nothing(storage: StorageBackend, metadata: Any) -> None:
    artifacts = storage.get_artifact_store()
    before = artifacts.save("v", "old")
    with pytest.raises(ArtifactDataError):
        artifacts.save("v", "new", metadata=metadata)
    with pytest.raises(ArtifactDataError):
        artifacts.save("v", "new", "d" * 5000)
    assert artifacts.list() == [before]


def test_what_is_known_of_an_artifact_comes_back(storage: StorageBackend, place: Place) -> None:
    before = datetime.now(UTC)
    saved = storage.get_artifact_store().save("a/b.json", {"n": 1}, "Größe", {"by": ["me"], "n": None})
    assert (saved.name, saved.description, saved.metadata) == ("a/b.json", "Größe", {"by": ["me"], "n": None})
    assert before <= saved.created_at <= datetime.now(UTC)
    assert saved.created_at.utcoffset() == timedelta(0)
    assert saved.size == len('{\n  "n": 1\n}')
    assert saved.path.endswith("a/b.json")
    other = place.open().get_artifact_store()
    assert other.list() == [saved]
    assert other.get("a/b.json") == saved
    info, pieces = other.read("a/b.json")
    assert (info, b"".join(pieces)) == (saved, b'{\n  "n": 1\n}')


def test_nothing_of_a_replaced_artifact_is_left(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    first = artifacts.save("v", b"x" * (9 * MIB), "old", {"a": 1})
    second = artifacts.save("v", "new")
    assert artifacts.list() == [second]
    assert (second.description, second.metadata, second.type, second.size) == ("", {}, "text", 3)
    assert second.created_at > first.created_at
    assert artifacts.load("v") == "new"


def test_a_deleted_artifact_is_gone_with_all_that_was_known(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", b"x", "old", {"a": 1})
    artifacts.delete("v")
    assert artifacts.list() == []
    assert artifacts.get("v") is None
    with pytest.raises(ArtifactNotFoundError):
        artifacts.load("v")
    artifacts.delete("v")
    assert artifacts.save("v", "new").metadata == {}


# Artifacts: names

WRONG = [
    "",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "a\x00b",
    "a\nb",
    ".artifacts.json",
    ".lock",
    "a/.hidden",
    "__index__",
    "a/__index__",
    "\ud800",
    "x" * 201,
    "x" * 10_000,
    "é" * 150,
    "/".join(["x"] * 300),
]


@pytest.mark.parametrize("name", WRONG, ids=lambda name: ascii(name)[:20])
def test_the_same_names_of_artifacts_are_refused(storage: StorageBackend, name: str) -> None:
    artifacts, backend = storage.get_artifact_store(), storage.get_artifact_backend()
    calls: list[Callable[[], object]] = [
        lambda: artifacts.save(name, "x"),
        lambda: artifacts.load(name),
        lambda: artifacts.get(name),
        lambda: artifacts.exists(name),
        lambda: artifacts.delete(name),
        lambda: backend.write(name, "text", [b"x"], "", {}),
        lambda: backend.read(name),
        lambda: backend.info(name),
        lambda: backend.remove(name),
    ]
    for call in calls:
        with pytest.raises(ArtifactNameError) as refused:
            call()
        assert len(str(refused.value)) < 700
    assert artifacts.list() == []


@pytest.mark.parametrize("name", ["../a", "a/../b", "/etc/passwd", ".."])
def test_a_name_that_climbs_is_called_so(storage: StorageBackend, name: str) -> None:
    with pytest.raises(ArtifactNameError, match="Path traversal"):
        storage.get_artifact_store().save(name, "x")


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b/c.json",
        "ü/\U0001f600",
        "x" * 200,
        "with space",
        "a:b*?[c]",
        "-n",
        "__pieces__",
        "CON",
        "/".join("x" * 200),
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_unusual_names_are_names(storage: StorageBackend, place: Place, name: str) -> None:
    saved = storage.get_artifact_store().save(name, {"a": 1})
    other = place.open().get_artifact_store()
    assert other.list() == [saved]
    assert other.load(name) == {"a": 1}
    other.delete(name)
    assert other.list() == []


def test_artifacts_come_by_name(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    for name in ("b", "a/z", "a-b", "a/b", "B"):
        artifacts.save(name, name)
    assert [each.name for each in artifacts.list()] == ["B", "a-b", "a/b", "a/z", "b"]


def test_an_artifact_and_a_folder_cannot_have_one_name(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    kept = [artifacts.save("a/b", "1"), artifacts.save("c", "2")]
    with pytest.raises(ArtifactNameError, match="'a' is a folder of artifacts"):
        artifacts.save("a", "x")
    for name in ("c/d", "c/d/e"):
        with pytest.raises(ArtifactNameError, match="'c' is an artifact"):
            artifacts.save(name, "x")
    for name in ("a", "c/d"):
        assert artifacts.get(name) is None
        with pytest.raises(ArtifactNotFoundError):
            artifacts.load(name)
        artifacts.delete(name)
    assert artifacts.list() == kept
    artifacts.save("a-b", "beside")
    artifacts.save("aa/b", "beside")


def test_a_folder_goes_with_its_last_artifact(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("a/b/c", "1")
    artifacts.save("a/d", "2")
    artifacts.delete("a/b/c")
    artifacts.save("a/b", "3")
    artifacts.delete("a/b")
    artifacts.delete("a/d")
    assert artifacts.save("a", "4").name == "a"
    assert artifacts.load("a") == "4"


# Artifacts: pieces


def numbered(count: int, size: int = MIB) -> Iterator[bytes]:
    return (bytes([number % 256]) * size for number in range(count))


def test_fifty_megabytes_pass_without_being_held(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    tracemalloc.start()
    try:
        info = artifacts.write("large", "bytes", numbered(50))
        _, pieces = artifacts.read("large")
        position = 0
        for piece in pieces:
            for offset in range(0, len(piece), 4096):
                assert piece[offset] == (position + offset) // MIB
            position += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (info.size, position) == (50 * MIB, 50 * MIB)
    assert peak < 24 * MIB


@pytest.mark.parametrize("size", [0, 1, MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 7])
@pytest.mark.parametrize("step", [1000, MIB + 1, 1 << 30])
def test_content_of_any_size_comes_back(storage: StorageBackend, size: int, step: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    artifacts = storage.get_artifact_store()
    saved = artifacts.write("v", "bytes", (content[at : at + step] for at in range(0, size, step)))
    assert saved.size == size
    info, pieces = artifacts.read("v")
    assert info == saved
    assert b"".join(pieces) == content


@pytest.mark.parametrize("count", [1, 9])
def test_a_writing_that_breaks_off_changes_nothing(storage: StorageBackend, count: int) -> None:
    artifacts = storage.get_artifact_store()
    before = artifacts.save("v", "old", "kept")

    def breaking() -> Iterator[bytes]:
        yield from numbered(count)
        raise OSError(5, "the source is gone")

    for name in ("v", "deep/below/new"):
        with pytest.raises(OSError, match="the source is gone"):
            artifacts.write(name, "bytes", breaking())
    assert artifacts.list() == [before]
    assert artifacts.load("v") == "old"
    artifacts.save("deep", "no folder is left")


def test_nobody_sees_a_part(storage: StorageBackend, place: Place) -> None:
    other = place.open().get_artifact_store()
    seen = []

    def looked_at() -> Iterator[bytes]:
        for piece in numbered(9):
            seen.append(other.list())
            yield piece

    storage.get_artifact_store().write("v", "bytes", looked_at())
    assert seen == [[]] * 9
    assert other.exists("v")


@pytest.mark.parametrize("size", [3 * MIB, 9 * MIB])
def test_a_reader_gets_one_writing_whatever_is_written_meanwhile(
    storage: StorageBackend, place: Place, size: int
) -> None:
    mine, other = storage.get_artifact_store(), place.open().get_artifact_store()
    mine.save("v", b"a" * size)
    info, pieces = mine.read("v")
    read = [next(pieces)]
    other.save("v", "short")
    other.save("v", b"b" * size)
    other.delete("v")
    other.save("v", b"c" * size)
    read += pieces
    assert b"".join(read) == b"a" * size
    assert info.size == size
    assert mine.load("v") == b"c" * size


def test_a_reading_that_is_left_early_holds_nothing(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", b"a" * (9 * MIB))
    for started in (False, True):
        _, pieces = artifacts.read("v")
        if started:
            next(pieces)
        with closing(pieces):
            pass
    artifacts.delete("v")


# Tools and requirements


@keeping_all
def test_tools_are_kept_byte_by_byte(storage: StorageBackend, place: Place) -> None:
    tools = storage.get_tool_store()
    tools.put(StoredTool("curl", b"name: curl\r\n# \xff\x00\n", "elsewhere"))
    tools.put(StoredTool("a-b.c", b"", ""))
    found = place.open().get_tool_store().list()
    assert [(each.name, each.text) for each in found] == [("a-b.c", b""), ("curl", b"name: curl\r\n# \xff\x00\n")]
    assert all(each.name in each.path for each in found)
    tools.put(StoredTool("curl", b"new", ""))
    assert tools.remove("a-b.c")
    assert not tools.remove("a-b.c")
    assert [(each.name, each.text) for each in tools.list()] == [("curl", b"new")]


@keeping_all
@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a\x00", "x" * 201, "a\\b", "\ud800"], ids=ascii)
def test_the_same_names_of_tools_are_refused(storage: StorageBackend, name: str) -> None:
    with pytest.raises(ToolDefinitionError):
        storage.get_tool_store().put(StoredTool(name, b"", ""))
    with pytest.raises(ToolDefinitionError):
        storage.get_tool_store().remove(name)
    assert storage.get_tool_store().list() == []


@keeping_all
def test_a_package_is_required_once(storage: StorageBackend, place: Place) -> None:
    deps = storage.get_deps_store()
    for requirement in ("pandas>=1", "six", "ruamel-yaml[jinja2]>=0.18", "pandas==2", "a"):
        deps.put(requirement)
    assert place.open().get_deps_store().list() == ["a", "pandas==2", "ruamel-yaml[jinja2]>=0.18", "six"]
    assert deps.remove("pandas")
    assert not deps.remove("pandas")
    assert deps.remove("Ruamel.YAML")
    assert deps.list() == ["a", "six"]


@keeping_all
@pytest.mark.parametrize("requirement", ["", "-e .", "a\nb", "; x"])
def test_what_names_no_package_is_not_kept(storage: StorageBackend, requirement: str) -> None:
    with pytest.raises(DependencyError):
        storage.get_deps_store().put(requirement)
    assert storage.get_deps_store().list() == []


# Workspaces


def test_workspaces_share_tools_and_requirements_alone(place: Place) -> None:
    storages = {each: place.open(each) for each in (None, "a", "b")}
    for key, storage in storages.items():
        assert storage.workspace_id == key
        storage.get_workflow_library().create("w", SOURCE, f"of {key}")
        storage.get_workflow_library().create(f"only_{key}", SOURCE)
        storage.get_artifact_store().save("v", f"of {key}")
        storage.get_artifact_store().save(f"only/{key}", b"x" * (5 * MIB))
    if place.keeps_all:
        storages["a"].get_tool_store().put(StoredTool("t", b"text", ""))
        storages["b"].get_deps_store().put("six")
    for key, storage in storages.items():
        assert [each.name for each in storage.get_workflow_library().list()] == [f"only_{key}", "w"]
        found = storage.get_workflow_library().get("w")
        assert found is not None
        assert found.description == f"of {key}"
        assert [each.name for each in storage.get_artifact_store().list()] == [f"only/{key}", "v"]
        assert storage.get_artifact_store().load("v") == f"of {key}"
        assert [each.name for each in storage.get_tool_store().list()] == (["t"] if place.keeps_all else [])
        assert storage.get_deps_store().list() == (["six"] if place.keeps_all else [])
    storages["a"].get_artifact_store().delete("v")
    storages["a"].get_workflow_library().remove("w")
    assert storages["b"].get_artifact_store().exists("v")
    assert storages[None].get_workflow_library().get("w") is not None


@pytest.mark.parametrize("workspace_id", ["", "../escape", "a/b", "a.b", "a:b", "é", "a b", "a\n", "x" * 65, 5, b"a"])
def test_a_wrong_workspace_is_refused_at_once(place: Place, workspace_id: Any) -> None:
    with pytest.raises(InvalidRequest, match="workspace_id"):
        place.open(workspace_id)


# Several at once


def test_threads_lose_nothing(place: Place) -> None:
    storages = [place.open() for _ in range(3)]
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for count in range(15):
                storage = storages[(number + count) % 3]
                storage.get_artifact_store().save(f"t{number}/{count}", [number, count], f"by {number}")
                storage.get_workflow_library().create(f"w{number}_{count}", SOURCE, f"by {number}")
                if place.keeps_all:
                    storage.get_deps_store().put(f"p{number}-{count}")
                if count % 3 == 0:
                    storage.get_artifact_store().delete(f"t{number}/{count}")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    artifacts, library = place.open().get_artifact_store(), place.open().get_workflow_library()
    kept = {f"t{number}/{count}" for number in range(4) for count in range(15) if count % 3}
    assert {each.name for each in artifacts.list()} == kept
    assert all(each.description == f"by {each.name[1]}" for each in artifacts.list())
    assert all(artifacts.load(name) == [int(name[1]), int(name[3:])] for name in kept)
    assert len(library.list()) == 60
    assert all(each.description == f"by {each.name[1]}" for each in library.list())
    assert len(place.open().get_deps_store().list()) == (60 if place.keeps_all else 0)


def test_programs_lose_nothing(place: Place) -> None:
    command = [sys.executable, "-m", "tests.integration.codemode.writer", place.kind, place.address]
    writers = [subprocess.Popen([*command, mark, "20"]) for mark in ("x", "y")]
    artifacts = place.open().get_artifact_store()
    while any(writer.poll() is None for writer in writers):
        known = artifacts.get("shared")
        if known is not None:  # seen in step: of one writing, or of the other
            info, pieces = artifacts.read("shared")
            assert b"".join(pieces) == info.description.encode() * 1000
            assert info.metadata == {"by": info.description}
    assert [writer.wait() for writer in writers] == [0, 0]
    names = {f"{mark}_{number}" for mark in ("x", "y") for number in range(20)}
    assert {each.name for each in artifacts.list()} == {f"each/{name}" for name in names} | {"shared"}
    for each in artifacts.list():
        if each.name != "shared":
            assert each.metadata == {"number": int(each.name[7:])}
    assert {each.name for each in place.open().get_workflow_library().list()} == names
    assert len(place.open().get_deps_store().list()) == (40 if place.keeps_all else 0)


# Errors


def test_errors_are_cellyards_and_pythons(storage: StorageBackend) -> None:
    artifacts = storage.get_artifact_store()
    for call, also in (
        (lambda: artifacts.load("missing"), LookupError),
        (lambda: artifacts.save("../x", 1), ValueError),
        (lambda: artifacts.save("x", {1}), TypeError),
    ):
        with pytest.raises(CodeModeError) as raised:
            call()
        assert isinstance(raised.value, CellyardError)
        assert isinstance(raised.value, also)


def test_a_closed_storage_can_be_used_again(storage: StorageBackend) -> None:
    storage.get_artifact_store().save("v", 1)
    storage.close()
    storage.close()
    assert storage.get_artifact_store().load("v") == 1
