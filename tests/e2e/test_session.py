"""The whole way: SDK, gRPC, room, store, agent link, container, kernel."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

ISOLATED = {"container_isolation", "network_isolation"}


def test_code_runs_in_a_container_that_isolates(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint, require=ISOLATED) as session:
        result = session.run(
            "import os, socket\n"
            "print(os.getuid() != 0, [name for _, name in socket.if_nameindex()], os.getpid() != 1)\n"
            "6 * 7"
        )
        assert result.success
        assert result.stdout == "True ['lo'] True\n"
        assert result.value == 42
        assert result.execution_count == 1
        assert session.supported_capabilities() >= ISOLATED


def test_rich_output_errors_and_state(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        assert session.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nx = 5").success
        png = session.get_cells()[0].outputs[-1].data["image/png"]
        assert png.startswith(b"\x89PNG")
        failed = session.run("1 / 0")
        assert not failed.success
        assert failed.error.ename == "ZeroDivisionError"
        assert session.run("x").value == 5


async def test_the_same_in_asyncio_with_parallel_cells(shared_controller: Process) -> None:
    async with cellyard.AsyncSession(endpoint=shared_controller.endpoint) as session:
        results = await asyncio.gather(*(session.run(f"print({n}); {n}") for n in range(5)))
        assert [result.value for result in results] == list(range(5))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(5)]


def test_two_sessions_of_one_notebook_share_its_kernel_and_the_last_one_out_ends_it(controller: Process) -> None:
    first = cellyard.Session(notebook_id="shared", endpoint=controller.endpoint)
    with cellyard.Session(notebook_id="shared", endpoint=controller.endpoint) as second:
        assert first.run("x = 1").success
        assert second.run("x").value == 1
        first.close()
        assert second.run("x").value == 1
        assert len(controller.containers()) == 1
    with cellyard.Session(notebook_id="shared", endpoint=controller.endpoint) as third:
        third.connect()
        assert third.kernel_started is False
        assert [cell.source for cell in third.get_cells()] == ["x = 1", "x", "x"]


def test_a_timeout_ends_the_cell_and_the_kernel_goes_on(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        session.run("x = 1")
        with pytest.raises(cellyard.ExecutionTimeout, match="timed out after"):
            session.run("print('before', flush=True)\nwhile True: pass", timeout_secs=1)
        assert session.run("x").value == 1


def test_an_interrupt_from_another_thread(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        session.start_kernel()
        started = threading.Event()
        interrupter = threading.Thread(target=lambda: (started.wait(), session.interrupt()))
        interrupter.start()
        result = session.run(
            "print('here', flush=True)\nimport time; time.sleep(60)", on_output=lambda _: started.set()
        )
        interrupter.join()
        assert result.end == "interrupted"
        assert result.error.ename == "KeyboardInterrupt"


def test_a_kernel_that_dies_says_why_and_the_next_run_has_a_new_one(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        session.run("x = 1")
        dead = session.run("import os; os._exit(3)")
        assert dead.end == "lost"
        assert dead.error.ename == "KernelDied"
        assert "3" in dead.error.evalue
        fresh = session.run("'x' in globals()")
        assert fresh.value is False
        assert fresh.execution_count == 1


def test_stopping_the_controller_leaves_no_container(controller: Process) -> None:
    session = cellyard.Session(endpoint=controller.endpoint)
    session.run("1")
    assert len(controller.containers()) == 1
    assert controller.stop() == 0
    assert controller.containers() == []
    session.close()


def test_a_killed_controller_goes_on_where_it_was(controller: Process) -> None:
    """The kernel runs on while nobody is there, and its output is complete when somebody is again."""
    session = cellyard.Session(notebook_id="nb", endpoint=controller.endpoint)
    session.run("import time; marker = 17")
    execution_id = session.queue_cell(
        session.create_cell("for n in range(60):\n    print(n, flush=True)\n    time.sleep(0.05)\nmarker")
    )
    for event in session.stream_execute(session.create_cell("'behind'")):
        if "0" in repr(event) or event.seq == 0:
            break
    controller.kill()
    controller.start()
    result = session.wait(execution_id, timeout=60)
    assert result.success
    assert result.stdout.split() == [str(n) for n in range(60)]
    assert result.value == 17
    session.close()


def fill(path: Path) -> None:
    """Writes until the disk is full."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
    except OSError as full:
        assert full.errno == errno.ENOSPC  # noqa: PT017


def test_a_run_is_refused_when_the_store_takes_no_writes(built_image: str, folder: Path, tmp_path: Path) -> None:
    """The data folder lies on a small disk that is full: accepted work is refused loudly, not lost quietly."""
    disk = folder / "d"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], check=True)
    process = Process(disk)
    process.log = tmp_path / "log"
    try:
        process.start()
        with cellyard.Session(endpoint=process.endpoint) as session:
            assert session.run("x = 1").success
            filler = disk / "filler"
            fill(filler)
            with pytest.raises(cellyard.ControllerUnavailable, match="store does not take writes"):
                session.run("y = '" + "y" * 20_000 + "'")
            filler.unlink()
            result = session.run("x, 'y' in globals()")
            assert result.value == (1, False)
    finally:
        process.close()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_importing_the_sdk_brings_no_engine_no_database_no_kernel() -> None:
    heavy = "docker sqlalchemy zmq IPython automerge pydantic typer rich nbformat"
    code = f"import sys, cellyard; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
