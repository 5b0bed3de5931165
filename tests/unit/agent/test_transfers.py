"""Files in and out of a home that hostile code has prepared, and goes on changing."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellyard_proto.beneath import Home
from cellyard_proto.flows import CHUNK, cost
from cellyard_proto.v1 import files_pb2
from cellyard_proto.v1 import link_pb2 as link
from cellyard_sandbox import files, transfers
from cellyard_sandbox.flows import FlowRefused

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE

BAD = [
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a\0b",
    "x" * 256,
    "ü" * 128,
    "a/" * 5_000 + "x",
    "n" * 10_240,
    "\udc80",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "home"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return root


@pytest.fixture(params=[False, True], ids=["openat2", "walk"])
def home(root: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    folder = files.open_folder(str(root))
    yield Home(folder, walk=request.param)
    os.close(folder)


def write(home: Home, path: str, content: bytes = b"x") -> None:
    work = transfers.Writing(home, link.WriteFile(path=path, size=len(content)))
    try:
        for start in range(0, len(content), CHUNK):
            part = content[start : start + CHUNK]
            assert work.take(part) == cost(part)
        assert work.ended is not None
    finally:
        work.close()


def read(home: Home, path: str, max_bytes: int = 1 << 30) -> bytes:
    work = transfers.Reading(home, link.ReadFile(path=path, max_bytes=max_bytes))
    content = b""
    try:
        while (frame := work.give(CHUNK)) is not None:
            content += frame.content
        assert work.ended is not None
    finally:
        work.close()
    return content


def entries(home: Home, path: str = "") -> dict[str, files_pb2.FileEntry]:
    work = transfers.Listing(home, link.ListFolder(path=path))
    found = {}
    try:
        while (frame := work.give(CHUNK)) is not None:
            assert len(frame.content) <= CHUNK
            found |= {entry.name: entry for entry in files_pb2.FileEntries.FromString(frame.content).entries}
        assert work.ended is not None
    finally:
        work.close()
    return found


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 1_000_000])
def test_what_was_written_is_read(home: Home, root: Path, size: int) -> None:
    content = os.urandom(size)
    write(home, "a/b/c", content)
    assert read(home, "a/b/c") == content
    assert names(root) == {"a", "a/b", "a/b/c"}
    write(home, "./a//b/c", b"another")
    assert (root / "a/b/c").read_bytes() == b"another"


@pytest.mark.parametrize("path", BAD)
def test_names_that_climb_or_cannot_be_are_refused(home: Home, root: Path, path: str) -> None:
    for attempt in (write, read, entries, remove):
        with pytest.raises((FlowRefused, ValueError)):
            attempt(home, path)
    assert names(root) == set()


def remove(home: Home, path: str) -> None:
    transfers.Removing(home, link.RemovePath(path=path))


@pytest.mark.parametrize("path", ["", ".", "a/.."])
def test_the_home_itself_is_no_file(home: Home, path: str) -> None:
    for attempt in (write, read, remove):
        with pytest.raises(FlowRefused):
            attempt(home, path)


def test_no_link_is_followed_and_none_is_replaced(home: Home, root: Path, tmp_path: Path) -> None:
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to("plain")
    (root / "plain").write_text("plain")
    for path in ("file", "folder/secret", "inside", "folder"):
        with pytest.raises(FlowRefused, match=r"link|no folder"):
            read(home, path)
    for path in ("file", "folder/new", "folder/new/deeper", "inside", "folder"):
        with pytest.raises(FlowRefused):
            write(home, path)
    with pytest.raises(FlowRefused):
        entries(home, "folder")
    with pytest.raises(FlowRefused):
        remove(home, "folder/secret")
    assert names(tmp_path / "outside") == {"secret"}
    remove(home, "folder")
    assert not (root / "folder").is_symlink()
    assert (tmp_path / "outside" / "secret").read_text() == "secret"


def test_special_files_are_neither_read_nor_replaced_and_make_nobody_wait(home: Home, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(FlowRefused):
                read(home, name)
            with pytest.raises(FlowRefused, match="not replaced"):
                write(home, name)
    (root / "folder").mkdir()
    with pytest.raises(FlowRefused, match="a folder"):
        read(home, "folder")
    with pytest.raises(FlowRefused, match="not replaced"):
        write(home, "folder")
    assert names(root) == {"pipe", "socket", "folder"}


def test_an_upload_that_does_not_end_leaves_nothing(home: Home, root: Path) -> None:
    (root / "a").write_text("old")
    work = transfers.Writing(home, link.WriteFile(path="a", size=10))
    work.take(b"12345")
    assert (root / "a").read_text() == "old"
    with pytest.raises(FlowRefused, match="more content"):
        work.take(b"678901")
    work.close()
    work.close()
    assert names(root) == {"a"}
    assert (root / "a").read_text() == "old"


def test_a_file_that_grows_is_read_as_long_as_it_was(home: Home, root: Path) -> None:
    (root / "a").write_bytes(b"1" * 100_000)
    work = transfers.Reading(home, link.ReadFile(path="a", max_bytes=1 << 20))
    read = 0
    while (frame := work.give(1_000)) is not None:
        read += len(frame.content)
        with (root / "a").open("ab") as file:
            file.write(b"2" * 10_000)
    assert read == 100_000
    work.close()


def test_a_file_that_is_cut_while_it_is_read_is_no_whole_file(home: Home, root: Path) -> None:
    (root / "a").write_bytes(b"1" * 100_000)
    work = transfers.Reading(home, link.ReadFile(path="a", max_bytes=1 << 20))
    assert work.give(1_000) is not None
    (root / "a").write_bytes(b"")
    with pytest.raises(FlowRefused, match="cut"):
        work.give(1_000)
    work.close()


def test_a_file_that_is_too_large_is_refused_before_it_is_read(home: Home, root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FlowRefused, match="at most"):
        read(home, "sparse", 1 << 20)


def test_a_list_says_what_is_there_links_and_broken_names_too(home: Home, root: Path) -> None:
    (root / "file").write_bytes(b"12345")
    (root / "folder").mkdir()
    (root / "link").symlink_to("/nowhere")
    os.mkfifo(root / "pipe")
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff"))).write_bytes(b"")
    kinds = {name: files_pb2.FileKind.Name(entry.kind) for name, entry in entries(home).items()}
    assert kinds == {
        "file": "FILE_KIND_FILE",
        "folder": "FILE_KIND_FOLDER",
        "link": "FILE_KIND_LINK",
        "pipe": "FILE_KIND_OTHER",
        "�": "FILE_KIND_FILE",
    }
    assert entries(home)["file"].size == 5
    with pytest.raises(FlowRefused, match="no folder"):
        entries(home, "file")


def test_long_lists_come_in_pieces(home: Home, root: Path) -> None:
    expected = {f"{number:03}" + "ü" * 100 for number in range(1_000)}
    for name in expected:
        (root / name).touch()
    assert set(entries(home)) == expected


def test_only_empty_folders_are_removed(home: Home, root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "b").touch()
    with pytest.raises(FlowRefused, match="not empty"):
        remove(home, "a")
    remove(home, "a/b")
    remove(home, "a")
    with pytest.raises(FlowRefused, match="not found"):
        remove(home, "a")


def test_a_folder_that_turns_into_a_link_and_back_lets_nothing_out_or_in(
    home: Home, root: Path, tmp_path: Path
) -> None:
    (root / "a").mkdir()
    (root / "a" / "secret").write_text("mine")
    over = threading.Event()

    os.symlink(tmp_path / "outside", root / "b")
    folder, link = os.fsencode(root / "a"), os.fsencode(root / "b")
    libc = ctypes.CDLL(None, use_errno=True)

    def swap() -> None:
        while not over.is_set():
            assert libc.renameat2(_HERE, folder, _HERE, link, _EXCHANGE) == 0  # never is there neither of them

    swapping = threading.Thread(target=swap)
    swapping.start()
    outcomes = {"read": 0, "written": 0, "refused": 0}
    try:
        for _ in range(3_000):
            try:
                assert read(home, "a/secret") == b"mine"
                outcomes["read"] += 1
                write(home, "a/new", b"in")
                outcomes["written"] += 1
            except FlowRefused:
                outcomes["refused"] += 1
    finally:
        over.set()
        swapping.join()
    assert names(tmp_path / "outside") == {"secret"}
    assert outcomes["read"] > 0
    assert outcomes["refused"] > 0
