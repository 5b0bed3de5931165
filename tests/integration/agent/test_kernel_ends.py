"""Kernels that die, are restarted, or outlive their agent."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.integration.agent.controller import AgentProcess, Controller, Record

from cellyard_proto.v1 import link_pb2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os\nprint('last words', flush=True)\nimport time; time.sleep(0.05)\nos._exit(3)", "exit code 3"),
        ("import os, signal, time\ntime.sleep(0.05)\nos.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import ctypes, time\ntime.sleep(0.05)\nctypes.string_at(0)", "signal 11"),
    ],
)
async def test_a_kernel_that_dies_is_noticed_at_once(kernel: Controller, source: str, reason: str) -> None:
    run = kernel.dispatch("a", source)
    waiting = kernel.dispatch("b", "1")
    await kernel.until(lambda: kernel.kernel.state == link_pb2.HOST_STATE_DEAD, timeout_s=5)
    assert kernel.kernel.reason == reason
    assert kernel.kernel.generation == 1
    assert run.outcome == "kernel_gone", "its end is told before the kernel's"
    assert run.end.reason == reason
    assert run.started
    assert waiting.outcome == "kernel_gone"
    assert not waiting.started
    if "last words" in source:
        assert run.text() == "last words\n"
    refused = await kernel.run("c", "1")
    assert refused.outcome == "kernel_gone"
    await kernel.restart()
    assert kernel.kernel.generation == 2
    fresh = await kernel.run("d", "1 + 1")
    assert fresh.outcome == "ok"
    assert fresh.end.execution_count == 1


async def test_a_kernel_killed_from_outside_while_idle_is_noticed(kernel: Controller) -> None:
    pid = await pid_of_kernel(kernel)
    os.kill(pid, signal.SIGKILL)
    await kernel.until(lambda: kernel.kernel.state == link_pb2.HOST_STATE_DEAD, timeout_s=5)
    assert kernel.kernel.reason == "signal 9"


async def test_exit_in_a_cell_ends_the_kernel_after_the_cell(kernel: Controller) -> None:
    run = await kernel.run("a", "exit()")
    await kernel.until(lambda: kernel.kernel.state == link_pb2.HOST_STATE_DEAD, timeout_s=5)
    assert run.outcome == "ok"
    assert kernel.kernel.reason == "exit code 0"


async def test_a_restart_forgets_everything_and_kills_what_the_kernel_started(
    agent: AgentProcess, kernel: Controller
) -> None:
    source = "import subprocess\nx = 1\nsubprocess.Popen(['sleep', '1000'], start_new_session=True).pid"
    child = int(value_of(await kernel.run("a", source)))
    old = await pid_of_kernel(kernel)
    running = kernel.dispatch("b", "while True: pass")
    await kernel.until(lambda: running.started)
    await kernel.restart()
    assert running.outcome == "kernel_gone"
    assert running.end.reason == "kernel_restarted"
    assert [(status.generation, status.state) for status in kernel.statuses] == [
        (1, link_pb2.HOST_STATE_STARTING),
        (1, link_pb2.HOST_STATE_READY),
        (2, link_pb2.HOST_STATE_STARTING),
        (2, link_pb2.HOST_STATE_READY),
    ]
    assert not is_alive(child)
    assert not is_alive(old)
    fresh = await kernel.run("c", "x")
    assert fresh.error is not None
    assert fresh.error.ename == "NameError"
    assert len(list(agent.scratch.glob("cellyard-*"))) == 1, "the folder of the old kernel is gone"


async def test_a_restart_of_another_generation_is_left_alone(kernel: Controller) -> None:
    await kernel.run("a", "x = 1")
    kernel.send(restart_kernel=link_pb2.RestartKernelHost(generation=7))
    assert value_of(await kernel.run("b", "x")) == "1"
    assert kernel.kernel.generation == 1


async def test_a_second_start_is_left_alone(kernel: Controller) -> None:
    await kernel.run("a", "x = 1")
    kernel.send(start_kernel=link_pb2.StartKernelHost(kernel_type="python"))
    assert value_of(await kernel.run("b", "x")) == "1"


async def test_restarts_in_a_row_end_with_one_kernel(kernel: Controller) -> None:
    for generation in (1, 2, 3):
        kernel.send(restart_kernel=link_pb2.RestartKernelHost(generation=generation))
    await kernel.until(lambda: kernel.kernel.generation == 4 and kernel.kernel.state == link_pb2.HOST_STATE_READY)
    assert (await kernel.run("a", "1")).outcome == "ok"


async def test_a_kernel_that_cannot_start_says_why(controller: Controller, agent: AgentProcess) -> None:
    controller.claim({"PYTHONHOME": "/nowhere"})
    controller.send(start_kernel=link_pb2.StartKernelHost())
    await controller.until(lambda: controller.kernel.state == link_pb2.HOST_STATE_DEAD)
    assert controller.kernel.reason.startswith("start_failed: exit code 1: ")
    assert "encodings" in controller.kernel.reason
    refused = await controller.run("a", "1")
    assert refused.outcome == "kernel_gone"
    assert refused.end.reason == controller.kernel.reason


async def test_a_dispatch_waits_for_the_kernel_to_be_ready(controller: Controller, agent: AgentProcess) -> None:
    controller.send(start_kernel=link_pb2.StartKernelHost())
    run = await controller.run("a", "1 + 1")
    assert value_of(run) == "2"


@pytest.mark.parametrize("how", ["goodbye", "sigterm", "sigkill"])
async def test_the_kernel_ends_with_its_agent(agent: AgentProcess, kernel: Controller, how: str) -> None:
    pid = await pid_of_kernel(kernel)
    kernel.dispatch("busy", "while True: pass")
    await kernel.until(lambda: kernel.record("busy").started)
    if how == "goodbye":
        kernel.send(goodbye=link_pb2.Goodbye(reason="shutdown"))
    else:
        os.kill(agent.pid, signal.SIGTERM if how == "sigterm" else signal.SIGKILL)
    assert await agent.ended(timeout_s=5) == (-9 if how == "sigkill" else 0)
    async with asyncio.timeout(5):
        while is_alive(pid):  # noqa: ASYNC110 - an orphan's end is told to nobody here
            await asyncio.sleep(0.01)


async def test_sigterm_ends_an_agent_while_its_kernel_starts(controller: Controller, agent: AgentProcess) -> None:
    controller.send(start_kernel=link_pb2.StartKernelHost())
    await controller.until(lambda: controller.kernel.state == link_pb2.HOST_STATE_STARTING)
    os.kill(agent.pid, signal.SIGTERM)
    assert await agent.ended(timeout_s=5) == 0


async def test_orphans_are_reaped(agent: AgentProcess, kernel: Controller) -> None:
    source = """
import subprocess
for _ in range(5): subprocess.run(['sh', '-c', 'sh -c "exit 0" & sh -c "exit 0" &'])
"""
    await kernel.run("a", source)
    async with asyncio.timeout(5):
        while zombies_below(agent.pid):  # noqa: ASYNC110 - only the agent is told
            await asyncio.sleep(0.01)


async def pid_of_kernel(kernel: Controller) -> int:
    return int(value_of(await kernel.run("pid", "import os; os.getpid()")))


def value_of(run: Record) -> str:
    assert run.value is not None
    return run.value.json


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def zombies_below(parent: int) -> int:
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        count += state == "Z" and int(above) == parent
    return count


async def test_a_kernel_that_closes_its_channels_is_ended(kernel: Controller, kernel_host: str) -> None:
    close = {
        "python": "import os; os.close(kernel.connection.fileno())",
        "jupyter": "kernel.iopub_thread.schedule(kernel.iopub_thread.socket.close)",
    }
    run = await kernel.run("a", f"import time\nkernel = get_ipython().kernel\n{close[kernel_host]}\ntime.sleep(60)")
    assert run.outcome == "kernel_gone"
    assert run.end.reason == "channels closed"
    await kernel.restart()
    assert value_of(await kernel.run("b", "1 + 1")) == "2"


async def test_a_cell_may_remove_what_the_agent_keeps_in_the_scratch_folder(
    agent: AgentProcess, kernel: Controller
) -> None:
    await kernel.run("a", f"import shutil; shutil.rmtree({str(agent.scratch)!r}); open({str(agent.scratch)!r}, 'w')")
    kernel.send(restart_kernel=link_pb2.RestartKernelHost(generation=1))
    await kernel.until(lambda: kernel.kernel.state == link_pb2.HOST_STATE_DEAD)
    assert kernel.kernel.reason.startswith("start_failed: ")
    assert "scratch" in kernel.kernel.reason
    agent.scratch.unlink()
    agent.scratch.mkdir()
    await kernel.restart()
    assert value_of(await kernel.run("b", "1 + 1")) == "2"


async def test_a_scratch_folder_with_a_long_path_is_refused_with_the_reason(
    folder: Path, controller: Controller
) -> None:
    long = folder / ("s" * 90)
    long.mkdir()
    agent = AgentProcess(long)
    await agent.start(controller.path)
    await controller.until(lambda: controller.connected)
    controller.send(start_kernel=link_pb2.StartKernelHost())
    await controller.until(lambda: controller.kernel.state == link_pb2.HOST_STATE_DEAD)
    assert "bytes too long" in controller.kernel.reason
    await agent.stop()


async def test_a_link_with_a_long_path_is_refused_at_once(folder: Path) -> None:
    agent = AgentProcess(folder)
    await agent.start(folder / ("l" * 120))
    assert await agent.ended(timeout_s=10) == 2
