"""Interrupts and timeouts: each hits the execution that it names, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.agent.controller import Controller

from cellyard_proto.v1 import link_pb2

ENDLESS = {"computing": "while True: pass", "sleeping": "import time\ntime.sleep(60)"}
IGNORING = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("deaf", flush=True)
while True: time.sleep(1)
"""


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("rounds", [24, pytest.param(200, marks=pytest.mark.soak)])
async def test_an_interrupt_soon_after_the_dispatch_ends_that_cell_alone(
    kernel: Controller, source: str, rounds: int
) -> None:
    for number in range(rounds):
        delay_ms = (0, 0.5, 1, 2)[number % 4]
        run = kernel.dispatch(f"endless-{number}", source)
        if delay_ms:
            await asyncio.sleep(delay_ms / 1000)
        kernel.interrupt(f"endless-{number}")
        following = kernel.dispatch(f"following-{number}", "import time; time.sleep(0.01); 'untouched'")
        await kernel.until(lambda following=following: following.ended is not None)
        assert run.kinds[0] == "started"
        assert run.outcome == "error"
        assert run.end.interrupted_by == "interrupt"
        assert run.error is not None
        assert run.error.ename == "KeyboardInterrupt"
        assert following.outcome == "ok"
        assert following.end.interrupted_by == ""
        assert following.value is not None
        assert following.value.json == '"untouched"'


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nawait asyncio.sleep(60)",
        "import asyncio\nawait asyncio.sleep(0)\nwhile True: pass",
        "import asyncio\nawait asyncio.gather(*(asyncio.sleep(60) for _ in range(3)))",
        "!sleep 60",
        "import os\nos.system('sleep 60')\nwhile True: pass",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
        "import threading\nthreading.Event().wait()",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass",
        "input_never = open('/dev/zero', 'rb')\nwhile True: input_never.read(10)",
    ],
)
async def test_cells_that_wait_in_many_ways_are_interrupted(kernel: Controller, source: str) -> None:
    run = kernel.dispatch("a", source)
    await kernel.until(lambda: run.started)
    await asyncio.sleep(0.1)  # into the midst of it: nothing tells from outside when that is
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None, timeout_s=10)
    assert run.end.interrupted_by == "interrupt"
    if not source.startswith("!"):
        assert run.error is not None
        assert run.error.ename == "KeyboardInterrupt"
    following = await kernel.run("b", "1 + 1")
    assert following.value is not None
    assert following.value.json == "2"
    assert len(kernel.statuses) == 2, "the kernel was not restarted"


async def test_an_interrupt_for_a_waiting_execution_waits_for_it(kernel: Controller) -> None:
    first = kernel.dispatch("a", "import time; time.sleep(0.3); 'whole'")
    second = kernel.dispatch("b", "while True: pass")
    kernel.interrupt("b")
    await kernel.until(lambda: second.ended is not None)
    assert first.outcome == "ok"
    assert first.end.interrupted_by == ""
    assert second.end.interrupted_by == "interrupt"


async def test_an_interrupt_may_come_before_its_dispatch(kernel: Controller) -> None:
    kernel.interrupt("a")
    run = await kernel.run("a", "while True: pass")
    assert run.end.interrupted_by == "interrupt"


async def test_an_interrupt_for_an_ended_execution_does_nothing(kernel: Controller) -> None:
    await kernel.run("a", "1")
    run = kernel.dispatch("b", "import time; time.sleep(0.5); 'whole'")
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)
    assert run.outcome == "ok"


async def test_an_interrupt_never_restarts_a_kernel_by_itself(kernel: Controller) -> None:
    run = kernel.dispatch("a", IGNORING)
    await kernel.until(lambda: run.text() == "deaf\n")
    kernel.interrupt("a")
    kernel.send(ping=link_pb2.Ping(id=1))
    with pytest.raises(TimeoutError):
        await kernel.until(lambda: run.ended is not None, timeout_s=6)
    kernel.interrupt("a", restart_after_s=0.2)
    await kernel.until(lambda: run.ended is not None)
    assert run.outcome == "kernel_gone"
    assert run.end.reason == "kernel_restarted"
    assert run.end.interrupted_by == "interrupt"
    assert "kernel was restarted" in run.text("stderr")


async def test_a_timeout_interrupts_the_cell_and_keeps_the_kernel(kernel: Controller) -> None:
    await kernel.run("a", "x = 'kept'")
    run = await kernel.run("b", "print('soon')\nwhile True: pass", timeout_s=0.3)
    assert run.outcome == "error"
    assert run.end.interrupted_by == "timeout"
    assert 0.3 <= run.end.wall_s < 3
    assert run.text() == "soon\n"
    kept = await kernel.run("c", "x", timeout_s=30)
    assert kept.value is not None
    assert kept.value.json == '"kept"'


async def test_a_timeout_counts_from_the_start_of_its_cell(kernel: Controller) -> None:
    kernel.dispatch("a", "import time; time.sleep(1)")
    run = await kernel.run("b", "import time; time.sleep(0.1); 'in time'", timeout_s=0.8)
    assert run.outcome == "ok"


async def test_a_cell_that_ignores_its_timeout_has_its_kernel_restarted(kernel: Controller) -> None:
    await kernel.run("a", "x = 1")
    run = kernel.dispatch("b", IGNORING, timeout_s=1)
    after = kernel.dispatch("c", "x")
    await kernel.until(lambda: run.ended is not None, timeout_s=20)
    assert run.outcome == "kernel_gone"
    assert run.end.reason == "kernel_restarted"
    assert run.end.interrupted_by == "timeout"
    assert run.end.wall_s >= 5
    assert run.text() == "deaf\n"
    assert "restarted" in run.text("stderr")
    await kernel.until(lambda: kernel.kernel.generation == 2 and kernel.kernel.state == link_pb2.HOST_STATE_READY)
    assert after.outcome == "kernel_gone", "what waits for a kernel never runs in another"
    fresh = await kernel.run("d", "x")
    assert fresh.error is not None
    assert fresh.error.ename == "NameError"


async def test_an_interrupt_wakes_a_stopped_kernel(kernel: Controller) -> None:
    kernel.acknowledges = False
    run = kernel.dispatch("a", "while True: print('x' * 10_000)")
    await kernel.until(lambda: sum(len(run.text()) for run in kernel.records.values()) > 7_000_000)
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)
    assert run.end.interrupted_by == "interrupt"
    assert run.error is not None
    assert run.error.ename == "KeyboardInterrupt"
    kernel.acknowledge()
