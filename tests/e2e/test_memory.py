"""Documents are many: what a controller has read and dropped costs it nothing."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import grpc
import pytest

from cellyard_proto.v1 import notebooks_pb2, notebooks_pb2_grpc
from tests.controller_process import Process

MIB = 1024 * 1024
AT_A_TIME = 8
WARM = 500
"""Notebooks after which whatever is made once has been made."""


def resident(process: Process) -> int:
    """Bytes that the controller has in memory."""
    assert process.process is not None
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def open_and_drop(process: Process, names: list[str]) -> None:
    """Makes notebooks and reads them again. Each call opens its notebook: nobody is in it between them."""
    async with grpc.aio.insecure_channel(process.endpoint) as channel:
        stub = notebooks_pb2_grpc.NotebooksStub(channel)
        left = iter(names)

        async def work() -> None:
            for name in left:
                cell = notebooks_pb2.CreateCellRequest(notebook_id=name, cell_id="c", source="x = 1")
                await stub.CreateCell(cell)
                assert (await stub.GetCell(notebooks_pb2.GetCellRequest(notebook_id=name, cell_id="c"))).source

        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_notebooks_that_were_opened_and_dropped_leave_no_memory_behind(folder: Path, count: int) -> None:
    process = Process(folder)
    await asyncio.to_thread(process.start, "--runtime", "process")
    try:
        numbers = itertools.count()
        await open_and_drop(process, [f"nb-{next(numbers)}" for _ in range(WARM)])
        sizes = [resident(process)]
        for _ in range(2):
            await open_and_drop(process, [f"nb-{next(numbers)}" for _ in range(count // 2)])
            sizes.append(resident(process))
        # What is left behind by each is left by both halves; what one of them alone takes, an allocator's arena, say,
        # or the database's cache, is none of that.
        grown = 2 * min(later - earlier for earlier, later in itertools.pairwise(sizes))
        print(f"{count} notebooks: {grown / MIB:.1f} MiB, sizes {[round(size / MIB, 1) for size in sizes]}")
        assert grown <= 10 * MIB * count / 10_000
    finally:
        await asyncio.to_thread(process.close)
