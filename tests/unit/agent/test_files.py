"""Folders emptied that hostile code has prepared."""

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
