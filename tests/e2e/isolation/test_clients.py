"""Attacks by clients on a controller with real sandboxes: others' cells run, and what was taken is given back.

What needs no container is tried in tests/integration/controller: test_client_attacks, test_hostile_client,
test_reused_requests, test_clock_jumps, test_bad_input.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import cellyard
from cellyard_proto.v1 import executions_pb2 as ex
from tests.controller_process import Process
from tests.raw_http2 import DATA, END_HEADERS, HEADERS, Connection, call, frame, message

from .conftest import MIB, neighbour, p95, resident

pytestmark = pytest.mark.docker

EXECUTE, UPLOAD = "/cellyard.v1.Executions/Execute", "/cellyard.v1.Files/Upload"


SLEEPING = """
import glob
names = []
for path in glob.glob('/proc/[0-9]*/comm'):
    try:
        names.append(open(path).read().strip())
    except OSError:
        pass
names.count('sleep')
"""
"""How many commands go on in the sandbox."""


def descriptors(yard: Process) -> int:
    """Open files and connections of the controller."""
    assert yard.process is not None
    return len(os.listdir(f"/proc/{yard.process.pid}/fd"))


async def until(true: Callable[[], bool]) -> None:
    """Returns once this is so."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


def test_half_said_requests_by_the_thousand_cost_little(yard: Process) -> None:
    """Two thousand calls on two hundred connections, each with the begin of a message of 30 MiB."""

    async def attack() -> None:
        opened = []
        try:
            for _ in range(200):
                opened.append(await Connection.open(yard.endpoint))  # noqa: PERF401 - closed even where one fails
            for stream in range(1, 20, 2):
                for connection in opened:
                    await connection.send(frame(HEADERS, END_HEADERS, stream, call(UPLOAD)))
                    await connection.send_data(stream, message(b"", size=30 * MIB))
                    await connection.send_data(stream, b"x" * 4096)
        finally:
            for connection in opened:
                connection.close()

    with neighbour(yard) as times:
        files, used = descriptors(yard), resident(yard)
        asyncio.run(attack())
        asyncio.run(until(lambda: descriptors(yard) <= files + 5))
        assert resident(yard) - used < 100 * MIB
    assert p95(times) < 1.0


def test_who_floods_and_reads_nothing_holds_up_nobody(yard: Process) -> None:
    """Output of 16 MiB to streams that are never read; the execution ends, and its output is there for others."""

    async def attack() -> list[Connection]:
        deaf = []
        for number in range(4):
            cell = ex.NewCell(cell_id=f"deaf-{number}", source="print('x' * 12_000_000)")
            start = ex.Start(notebook_id="deaf", source=cell).SerializeToString()
            connection = await Connection.open(yard.endpoint)
            begin = frame(HEADERS, END_HEADERS, 1, call(EXECUTE))
            await connection.send(begin, frame(DATA, 1, 1, message(start)))
            deaf.append(connection)
        return deaf

    with cellyard.Session(notebook_id="deaf", endpoint=yard.endpoint) as session:
        assert session.run("1").value == 1
        used = resident(yard)
        with asyncio.Runner() as runner:
            with neighbour(yard) as times:
                deaf = runner.run(attack())
                while len(session.get_cells()) < 1 + len(deaf):
                    pass  # what they asked for is not there yet
                assert session.run("'behind them'", timeout_secs=60).value == "behind them"
                assert resident(yard) - used < 200 * MIB
            assert p95(times) < 1.0
            runner.run(hang_up(deaf))
        assert len(session.get_cell("deaf-0").outputs) == 1


async def hang_up(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


def test_who_goes_in_the_middle_leaves_no_command_and_no_file(yard: Process, tmp_path: Path) -> None:
    """Commands and uploads that are cancelled at once, half way, and when all is said."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(8 * MIB))

    async def attack() -> None:
        async with cellyard.AsyncSession(notebook_id="gone", endpoint=yard.endpoint) as session:
            await session.run("1")
            files = descriptors(yard)
            for step in range(12):
                doing = asyncio.ensure_future(
                    session.exec(["sleep", "600"]) if step % 2 else session.upload(large, f"large-{step}")
                )
                for _ in range(step * 10):  # further each time
                    await asyncio.sleep(0)
                doing.cancel()
                with suppress(asyncio.CancelledError):
                    await doing
            async with asyncio.timeout(60):
                while (await session.run(SLEEPING)).value:
                    pass
            left = await session.run("import os; sorted(name for name in os.listdir() if name.startswith('.'))")
            assert not [name for name in left.value if "large" in name]
            assert descriptors(yard) <= files + 5

    with neighbour(yard) as times:
        asyncio.run(attack())
    assert p95(times) < 1.0
