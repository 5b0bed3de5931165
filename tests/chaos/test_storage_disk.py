"""A folder of code mode's on a disk that is full, and after a loss of power."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cellyard.codemode.errors import StorageError
from cellyard.codemode.storage.file import FileStorage
from cellyard.codemode.storage.protocols import StoredTool
from tests.chaos.small_disk import SmallDisk, small_disk

SOURCE = "def run(): pass\n"


@pytest.fixture
def disk(folder: Path) -> Iterator[SmallDisk]:
    """A disk of 16 MiB."""
    with small_disk(folder, 16) as disk:
        yield disk


def test_a_full_disk_is_told_and_nothing_old_is_lost(disk: SmallDisk) -> None:
    storage = FileStorage(disk.path / "base")
    artifacts, library = storage.get_artifact_store(), storage.get_workflow_library()
    artifacts.save("v", "old" * 10_000, "kept", {"n": 1})
    library.create("w", SOURCE, "kept")
    storage.get_tool_store().put(StoredTool("t", b"old", ""))
    storage.get_deps_store().put("six")
    disk.fill()
    for call in (
        lambda: artifacts.save("v", b"x" * (1 << 20)),
        lambda: artifacts.save("new/below", "small"),
        lambda: library.create("w", SOURCE + "# new\n", "new"),
        lambda: storage.get_tool_store().put(StoredTool("t", b"new", "")),
        lambda: storage.get_deps_store().put("numpy"),
    ):
        with pytest.raises(StorageError, match="No space left") as full:
            call()
        assert full.value.retryable

    def all_is_old() -> None:
        assert [(each.name, each.description, each.metadata) for each in artifacts.list()] == [("v", "kept", {"n": 1})]
        assert artifacts.load("v") == "old" * 10_000
        assert [(each.source, each.description) for each in library.list()] == [(SOURCE, "kept")]
        assert [each.text for each in storage.get_tool_store().list()] == [b"old"]
        assert storage.get_deps_store().list() == ["six"]

    all_is_old()
    disk.clear()
    all_is_old()
    artifacts.save("v", b"x" * (1 << 20), "new")
    assert [each.description for each in artifacts.list()] == ["new"]
    assert not list(storage.root.rglob(".new/*"))


def test_what_was_accepted_is_there_after_a_loss_of_power(disk: SmallDisk, folder: Path) -> None:
    storage = FileStorage(disk.path / "base")
    for number in range(3):
        storage.get_artifact_store().save("a/v", {"n": number}, f"number {number}")
        storage.get_artifact_store().save(f"gone/{number}", number)
        storage.get_artifact_store().delete(f"gone/{number}")
        storage.get_workflow_library().create(f"w{number}", SOURCE, f"number {number}")
        storage.get_deps_store().put(f"package-{number}")
        storage.get_tool_store().put(StoredTool("t", b"%d" % number, ""))
    lost = folder / "lost"
    lost.mkdir()
    with disk.after_loss_of_power(lost) as after:
        found = FileStorage(after.path / "base")
        assert [(each.name, each.description) for each in found.get_artifact_store().list()] == [("a/v", "number 2")]
        assert found.get_artifact_store().load("a/v") == {"n": 2}
        assert [each.description for each in found.get_workflow_library().list()] == [f"number {n}" for n in range(3)]
        assert found.get_deps_store().list() == [f"package-{n}" for n in range(3)]
        assert [each.text for each in found.get_tool_store().list()] == [b"2"]
