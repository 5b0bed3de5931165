"""A stream's text that is too long for memory: in a file meanwhile, and whole at its end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from cellyard_controller.executions import spooled
from cellyard_controller.executions.parts import LARGE, Parts
from cellyard_controller.executions.spooled import HELD, SpooledText
from cellyard_controller.store.blob_files import BlobFiles
from cellyard_proto.outputs import BlobRef, OutputFold
from cellyard_proto.stream_text import apply_controls

NO_DATABASE = create_engine("sqlite://").connect()
"""Files ask a transaction only whether others may sweep meanwhile; with this one nobody is there."""
CHUNKS = st.lists(st.text(alphabet="aé\U0001f40d\r\b\n", max_size=20), max_size=15)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> BlobFiles:
    return opened(tmp_path_factory.mktemp("data"))


def opened(folder: Path) -> BlobFiles:
    blobs = BlobFiles(folder / "blobs")
    blobs.open()
    return blobs


@pytest.fixture(scope="module")
def small_steps() -> Iterator[None]:
    with patch.object(spooled, "HELD", 7), patch.object(spooled, "_PIECE", 5):
        yield


def files(blobs: BlobFiles) -> list[str]:
    return [digest for prefix in blobs.prefixes() for digest in blobs.stored(NO_DATABASE, prefix)]


@given(CHUNKS, st.integers(0, 30))
@pytest.mark.usefixtures("small_steps")
def test_it_is_the_text_that_came(blobs: BlobFiles, chunks: list[str], large: int) -> None:
    text = SpooledText(blobs)
    for number, chunk in enumerate(chunks, start=1):
        text.append(chunk)
        assert text.whole() == "".join(chunks[:number])
    shown, kept = apply_controls("".join(chunks)), text.keep(NO_DATABASE, large)
    if isinstance(kept, BlobRef):
        assert blobs.text(kept.digest) == shown
        assert kept.size == len(shown.encode())
    else:
        assert kept == shown
    assert isinstance(kept, BlobRef) == (len(shown) > large)


@given(CHUNKS, st.integers(1, 4))
@pytest.mark.usefixtures("small_steps")
def test_nothing_is_lost_where_the_disk_is_full(blobs: BlobFiles, chunks: list[str], fails_after: int) -> None:
    written = 0

    def pwrite(descriptor: int, content: memoryview, place: int) -> int:
        nonlocal written
        written += 1
        if written % fails_after == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os_pwrite(descriptor, content[:3], place)

    os_pwrite = os.pwrite
    with patch.object(os, "pwrite", pwrite):
        text = SpooledText(blobs)
        for chunk in chunks:
            text.append(chunk)
    assert text.whole() == "".join(chunks)


def test_what_is_stored_of_a_long_stream_is_one_file(tmp_path: Path) -> None:
    blobs = opened(tmp_path)
    line = "x" * 99 + "\n"
    fold = OutputFold(text=lambda: SpooledText(blobs))
    for _ in range(HELD // 100 + 10):
        fold.append({"output_type": "stream", "name": "stdout", "text": line})
    (waiting,) = fold.outputs(in_files=True)
    assert isinstance(waiting["text"], SpooledText)
    parts = Parts()
    (output,) = parts.of_outputs([waiting], connection=NO_DATABASE)
    assert files(blobs) == [output["text"].digest]
    assert blobs.text(output["text"].digest) == line * (HELD // 100 + 10)
    fold.keep_elsewhere(parts.streams)
    assert fold.outputs() == [output]


def test_a_long_progress_bar_is_stored_as_the_line_that_is_left(tmp_path: Path) -> None:
    blobs = opened(tmp_path)
    fold = OutputFold(text=lambda: SpooledText(blobs))
    for step in range(HELD // 10):
        fold.append({"output_type": "stream", "name": "stderr", "text": f"\r{step:12d}"})
    (waiting,) = fold.outputs(in_files=True)
    (output,) = Parts().of_outputs([waiting], connection=NO_DATABASE)
    assert output["text"] == f"{HELD // 10 - 1:12d}"
    assert len(output["text"]) < LARGE
    assert files(blobs) == []


def test_its_file_is_gone_with_it(tmp_path: Path) -> None:
    blobs = opened(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    text = SpooledText(blobs)
    text.append("x" * HELD)
    assert text.in_file
    assert os.listdir(tmp_path / "blobs") == []
    del text
    assert len(os.listdir("/proc/self/fd")) == before
