"""The audit log's file: whole lines, bounded, kept through a disk that takes none, and spare with refusals."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.tenants.audit import FILE, Audit, Sparing, entry_of, files


def read(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in files(folder) for line in path.read_bytes().splitlines()]
    return [entry for line in lines if (entry := entry_of(line)) is not None]


async def test_an_entry_is_a_line_of_a_file_for_the_owner_alone(tmp_path: Path) -> None:
    audit = Audit(tmp_path, max_bytes=1000, files=2)
    audit.note("Notebooks.SetSource", tenant="alice", about={"notebook_id": "nb\n", "path": "x" * 1000}, token="")
    await audit.flush()
    (entry,) = read(tmp_path)
    assert entry["at"].endswith("Z")
    assert (entry["action"], entry["tenant"], entry["notebook_id"]) == ("Notebooks.SetSource", "alice", "nb\n")
    assert len(entry["path"]) == 259
    assert "token" not in entry
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


async def test_what_is_gathered_is_written_without_being_asked(tmp_path: Path) -> None:
    flushed = asyncio.Event()

    class Telling(Audit):
        async def flush(self, *, sync: bool = True) -> None:
            await super().flush(sync=sync)
            flushed.set()

    audit = Telling(tmp_path, max_bytes=1000, files=2)
    writing = asyncio.create_task(audit.run())
    audit.note("a", tenant="", about={})
    async with asyncio.timeout(30):
        await flushed.wait()
    writing.cancel()
    assert [entry["action"] for entry in read(tmp_path)] == ["a"]


@pytest.mark.parametrize("kept", [1, 3])
async def test_full_files_make_room_for_new_ones(tmp_path: Path, kept: int) -> None:
    audit = Audit(tmp_path, max_bytes=100, files=kept)
    for number in range(10):
        audit.note("a", tenant="", about={"n": number, "pad": "x" * 100})
        await audit.flush()
    assert len(files(tmp_path)) == kept
    assert [entry["n"] for entry in read(tmp_path)] == list(range(10 - kept, 10))


async def test_what_cannot_be_written_waits_and_follows_a_cut_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    audit = Audit(folder, max_bytes=1_000_000, files=2)
    (folder / FILE).mkdir()  # no file can be opened there
    audit.note("first", tenant="", about={})
    await audit.flush()
    os.rmdir(folder / FILE)
    (folder / FILE).write_bytes(b'{"action": "cu')
    audit.note("second", tenant="", about={})
    await audit.flush()
    assert [entry["action"] for entry in read(folder)] == ["first", "second"]


async def test_what_is_too_much_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellyard_controller.tenants.audit._MAX_WAITING", 3)
    audit = Audit(tmp_path, max_bytes=10_000, files=2)
    for number in range(5):
        audit.note("a", tenant="", about={"n": number})
    await audit.flush()
    await audit.flush()
    assert [(entry["action"], entry.get("entries")) for entry in read(tmp_path)] == [
        ("a", None),
        ("a", None),
        ("a", None),
        ("audit.lost", 2),
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=300))
def test_refusals_are_noted_or_counted(calls: list[tuple[str, float]]) -> None:
    sparing, now = Sparing(), 0.0
    told: dict[str, int] = {}
    asked: dict[str, int] = {}
    minutes: dict[str, list[float]] = {}
    for kind, pause in calls:
        now += pause
        asked[kind] = asked.get(kind, 0) + 1
        left_out = sparing.admit(kind, now)
        if left_out is not None:
            told[kind] = told.get(kind, 0) + 1 + left_out
            minutes.setdefault(kind, []).append(now)
    for kind, moments in minutes.items():
        assert told[kind] <= asked[kind]
        # In any minute at most those of two windows.
        assert all(sum(start <= moment < start + 60 for moment in moments) <= 40 for start in moments)
    assert asked.keys() == told.keys()


def test_many_addresses_take_bounded_memory() -> None:
    sparing = Sparing()
    for number in range(5000):
        assert sparing.admit(str(number), 0.0) == 0
    assert len(sparing._kinds) == 1000
