"""Files put into a home, and folders emptied, that hostile code has prepared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cellyard_sandbox import files


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def put(home: Path, name: str, content: bytes = b"x") -> None:
    folder = files.open_folder(str(home))
    try:
        files.put(folder, name, content)
    finally:
        os.close(folder)


def test_a_file_is_written_whole_and_replaced_whole(home: Path) -> None:
    put(home, "a", b"1" * 1_000_000)
    put(home, "a", b"2")
    assert (home / "a").read_bytes() == b"2"
    assert [path.name for path in home.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b", "x" * 256, "ü" * 128])
def test_only_plain_names_are_taken(home: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain"):
        put(home, name)
    assert list(home.iterdir()) == []


def test_a_link_is_replaced_and_never_followed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (home / "a").symlink_to(tmp_path / "outside")
    put(home, "a", b"inside")
    assert (tmp_path / "outside").read_text() == "untouched"
    assert not (home / "a").is_symlink()


def test_a_folder_in_the_way_is_an_error_that_leaves_nothing_behind(home: Path) -> None:
    (home / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        put(home, "a")
    assert [path.name for path in home.iterdir()] == ["a"]


def test_a_folder_is_emptied_of_whatever_lies_there(home: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    (home / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(home / "pipe")
    (home / "locked").mkdir()
    (home / "locked" / "inner").mkdir()
    (home / "locked" / "inner" / "file").write_text("x")
    (home / "locked" / "inner").chmod(0)
    (home / "locked").chmod(0)
    files.empty(str(home))
    assert list(home.iterdir()) == []
    assert (tmp_path / "outside" / "kept").read_text() == "kept"


def test_no_depth_is_too_deep(home: Path) -> None:
    folder = os.open(home, os.O_RDONLY)
    for _ in range(3_000):
        os.mkdir("d" * 50, dir_fd=folder)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    files.empty(str(home))
    assert list(home.iterdir()) == []


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    files.empty(str(tmp_path / "nowhere"))
