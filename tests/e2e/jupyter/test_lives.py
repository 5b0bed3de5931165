"""The life of a kernel: interrupted, restarted, dead, given back; and kernels that never come to life."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

import cellyard
from cellyard.errors import CapabilityUnavailable, ControllerUnavailable, InvalidRequest
from tests.controller_process import Process
from tests.e2e.jupyter.conftest import install
from tests.e2e.jupyter.front_end import WAIT_S, FrontEnd, of_kind

pytestmark = pytest.mark.docker

ENDLESS = "import time\nprint('in')\nwhile True: time.sleep(0.01)"


def notebook_of(front_end: FrontEnd) -> str:
    return f"jupyter-{front_end.manager.kernel_id}"


def sandboxes(service: Process) -> dict[str, str]:
    """By notebook the sandbox that it has."""
    with cellyard.Client(service.endpoint) as client:
        return {str(each.notebook_id): each.sandbox_id for each in client.list_sandboxes() if each.state == "claimed"}


def until_dead(front_end: FrontEnd) -> None:
    """Waits until the manager sees that the kernel has ended."""

    async def gone() -> None:
        await asyncio.wait_for(front_end.manager.provisioner.wait(), WAIT_S)

    asyncio.run(gone())


def test_both_ways_to_interrupt_end_a_cell(front_end: FrontEnd) -> None:
    running = front_end.execute(ENDLESS)
    front_end.heard(of_kind("stream", running))
    front_end.manager.interrupt_kernel()
    assert front_end.ended(running).content["ename"] == "KeyboardInterrupt"
    running = front_end.execute(ENDLESS)
    front_end.heard(of_kind("stream", running))
    front_end.manager.signal_kernel(signal.SIGINT)
    ran = front_end.ended(running)
    assert ran.content["ename"] == "KeyboardInterrupt"
    assert ran.of("error")[0]["ename"] == "KeyboardInterrupt"
    front_end.manager.interrupt_kernel()  # with nothing to interrupt
    assert front_end.run("1").text == "1"


@pytest.mark.parametrize(("now", "newports"), [(False, False), (True, False), (True, True)])
def test_a_restart_gives_a_fresh_kernel_in_the_same_sandbox(
    service: Process, front_end: FrontEnd, now: bool, newports: bool
) -> None:
    front_end.run("x = 1; open('kept', 'w').write('in the home')")
    running = front_end.execute(ENDLESS)
    front_end.heard(of_kind("stream", running))
    before = sandboxes(service)[notebook_of(front_end)]
    front_end.manager.restart_kernel(now=now, newports=newports)
    if newports:
        front_end.client.stop_channels()
        front_end.client = front_end.manager.client()
        front_end.client.start_channels()
    front_end.client.wait_for_ready(timeout=WAIT_S)
    ran = front_end.run("print(open('kept').read()); x")
    assert (ran.stdout, ran.content["ename"]) == ("in the home\n", "NameError")
    assert ran.content["execution_count"] == 1
    assert sandboxes(service)[notebook_of(front_end)] == before


def test_a_shutdown_leaves_neither_sandbox_nor_notebook(service: Process) -> None:
    front_end = FrontEnd("cellyard-python")
    notebook_id = notebook_of(front_end)
    assert front_end.run("1").text == "1"
    assert notebook_id in sandboxes(service)
    front_end.manager.shutdown_kernel()
    assert not front_end.manager.is_alive()
    front_end.client.stop_channels()
    with cellyard.Client(service.endpoint) as client:
        assert notebook_id not in [each.notebook_id for each in client.list_notebooks()]
    assert notebook_id not in sandboxes(service)


def test_another_front_end_may_shut_the_kernel_down(service: Process, front_end: FrontEnd) -> None:
    other = FrontEnd(of=front_end)
    other.reply(other.send("shutdown_request", {"restart": False}, channel="control"), "control")
    other.close()
    until_dead(front_end)
    assert not front_end.manager.is_alive()


def test_a_kernel_that_dies_under_a_cell_is_told_and_can_be_restarted(front_end: FrontEnd) -> None:
    ran = front_end.run("import os; print('last words', flush=True); os._exit(7)")
    assert (ran.content["status"], ran.content["ename"]) == ("error", "KernelDied")
    assert ran.stdout == "last words\n"
    assert "exit code 7" in ran.of("error")[0]["evalue"]
    until_dead(front_end)
    assert not front_end.manager.is_alive()
    front_end.manager.restart_kernel(now=True)
    front_end.client.wait_for_ready(timeout=WAIT_S)
    assert front_end.run("'anew'").text == "'anew'"


def test_a_kernel_that_dies_with_nothing_running_is_dead(front_end: FrontEnd, service: Process) -> None:
    pid = front_end.run("import os; os.getpid()").text
    with cellyard.Session(notebook_of(front_end), endpoint=service.endpoint) as session:
        assert session.exec(["sh", "-c", f"kill -9 {pid}"]).exit_code == 0
        until_dead(front_end)
    assert not front_end.manager.is_alive()


def test_nbclient_sees_a_dead_kernel(service: Process) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in ("import os; os._exit(1)", "2")]
    with pytest.raises((DeadKernelError, CellExecutionError), match=r"Kernel ?[dD]ied"):
        NotebookClient(nbformat.v4.new_notebook(cells=cells), kernel_name="cellyard-python", timeout=60).execute()


def test_a_sandbox_that_was_idle_too_long_is_replaced_and_the_next_cell_says_so(service: Process) -> None:
    options = ("--kernel", "python", "--name", "impatient", "--idle-timeout", "1")
    install(service.folder, "--endpoint", service.endpoint, *options)
    front_end = FrontEnd("impatient")
    try:
        front_end.run("x = 1")
        with cellyard.Session(notebook_of(front_end), endpoint=service.endpoint) as session:
            for event in session.watch():
                kernel = getattr(event, "kernel", None)
                if kernel is not None and kernel.end_reason == "idle":
                    break
        ran = front_end.run("'x' in globals()")
        assert ran.text == "False"
        assert "this is a new kernel" in ran.stderr
        assert front_end.manager.is_alive()
    finally:
        front_end.close()


def test_a_front_end_that_ends_without_a_shutdown_takes_its_kernel_along(service: Process) -> None:
    code = """
from tests.e2e.jupyter.front_end import FrontEnd
front_end = FrontEnd("cellyard-python")
print(front_end.run("1").text, front_end.manager.kernel_id)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True, env=os.environ.copy()
    )
    value, kernel_id = done.stdout.split()
    assert value == "1"
    with cellyard.Client(service.endpoint) as client:
        assert f"jupyter-{kernel_id}" not in [each.notebook_id for each in client.list_notebooks()]


def test_nothing_of_the_caller_gets_in_but_the_files_that_were_asked_for(
    service: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.txt").write_text("beside")
    (tmp_path / ".hidden").write_text("hidden")
    monkeypatch.setenv("MY_SECRET", "secret")
    install(service.folder, "--endpoint", service.endpoint, "--kernel", "python", "--name", "beside", "--files=beside")
    listing = "import os; print(sorted({'data.txt', '.hidden'} & {*os.listdir()}), 'MY_SECRET' in os.environ)"
    for kernel, there in (("beside", "['data.txt'] False\n"), ("cellyard-python", "[] False\n")):
        manager = KernelManager(kernel_name=kernel)
        manager.start_kernel(cwd=str(tmp_path), env={**os.environ, "OTHER": "1"})
        client = manager.client()
        client.start_channels()
        said: list[dict[str, Any]] = []
        try:
            client.wait_for_ready(timeout=WAIT_S)
            client.execute_interactive(listing, timeout=WAIT_S, output_hook=said.append)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        assert there in [message["content"].get("text") for message in said]


def test_a_notebook_that_was_named_is_worked_in_and_kept(service: Process) -> None:
    install(service.folder, "--endpoint", service.endpoint, "--kernel=python", "--name=mine", "--notebook=my work")
    front_end = FrontEnd("mine")
    try:
        front_end.run("answer = 42")
        with cellyard.Session("my work", endpoint=service.endpoint) as session:
            assert session.run("answer").value == 42
        assert front_end.run("answer").text == "42"
    finally:
        front_end.close()
    with cellyard.Client(service.endpoint) as client:
        assert "my work" in [each.notebook_id for each in client.list_notebooks()]
        client.delete_notebook("my work")


async def test_a_server_starts_kernels_on_its_own_loop_over_ipc_too(service: Process, folder: Path) -> None:
    manager = AsyncKernelManager(kernel_name="cellyard-python", transport="ipc", ip=str(folder / "k"))
    await manager.start_kernel()
    for _ in range(2):
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=WAIT_S)
            reply = await client._async_execute_interactive("1", timeout=WAIT_S)
            assert reply["content"]["status"] == "ok"
        finally:
            client.stop_channels()
        await manager.restart_kernel(now=True)
    await manager.shutdown_kernel(now=True)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"endpoint": "unix:/nowhere/at/all"}, ControllerUnavailable, "/nowhere/at/all"),
    ({"template": "none-such"}, InvalidRequest, "none-such"),
    ({"require": ["teleportation"]}, InvalidRequest, "teleportation"),
    ({"network": "open", "require": ["network_isolation"]}, Exception, "network"),
    ({"token_file": "/nowhere/token"}, InvalidRequest, "/nowhere/token"),
    ({"kernel": "ruby"}, InvalidRequest, "ruby"),
]


@pytest.mark.parametrize(("config", "error", "says"), REFUSED, ids=[next(iter(each[0])) for each in REFUSED])
def test_a_kernel_that_cannot_be_had_is_refused_with_a_sentence(
    service: Process, config: dict[str, Any], error: type[Exception], says: str
) -> None:
    spec = service.folder / "jupyter" / "share" / "jupyter" / "kernels" / "refused" / "kernel.json"
    spec.parent.mkdir(exist_ok=True)
    content = json.loads((spec.parents[1] / "cellyard-python" / "kernel.json").read_text())
    content["metadata"]["kernel_provisioner"]["config"] |= config
    spec.write_text(json.dumps(content))
    manager = KernelManager(kernel_name="refused")
    with pytest.raises(error, match=says):
        manager.start_kernel()
    assert not manager.has_kernel


def test_without_an_engine_the_sentence_says_so(
    folder: Path, service: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/no-engine.sock")
    monkeypatch.delenv("CELLYARD_ENDPOINT", raising=False)
    install(service.folder, "--kernel=python", "--name=own")
    manager = KernelManager(kernel_name="own")
    try:
        with pytest.raises(CapabilityUnavailable, match="engine"):  # of the user's own controller, started for this
            manager.start_kernel()
    finally:
        subprocess.run([sys.executable, "-m", "cellyard.cli", "stop"], check=True, timeout=60, capture_output=True)
