"""Much output: nothing is lost below the limit, little is kept above it, and the agent stays small."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.agent.controller import AgentProcess, Controller

MIB = 1024 * 1024


@pytest.fixture(params=["python", pytest.param("jupyter", marks=pytest.mark.soak)])
def kernel_host(request: pytest.FixtureRequest) -> str:
    """Floods take long: those of the host that is not the usual one are for the long tests."""
    return str(request.param)


async def test_60000_flushed_prints_survive_a_reader_that_sleeps(kernel: Controller) -> None:
    kernel.reading.clear()
    kernel.acknowledges = False
    run = kernel.dispatch("a", "for n in range(60_000): print(n, flush=True)\nprint('end')")
    await asyncio.sleep(15)  # the subject: nobody reads or acknowledges meanwhile
    kernel.acknowledges = True
    kernel.reading.set()
    await kernel.until(lambda: run.ended is not None, timeout_s=100)
    assert run.text() == "".join(f"{n}\n" for n in range(60_000)) + "end\n"
    assert run.text("stderr") == ""
    assert run.outcome == "ok"
    assert run.kinds[-1] == "ended"


async def test_the_kernel_stops_while_too_much_is_unacknowledged(kernel: Controller) -> None:
    kernel.welcome.output_bytes = 64 * MIB
    kernel.drop()  # the new limits come with a new Welcome
    await kernel.until(lambda: len(kernel.hellos) == 2)
    pid = int(value_of(await kernel.run("pid", "import os; os.getpid()")))
    child_source = "import subprocess\nchild = subprocess.Popen(['sleep', '1000'], start_new_session=True)\nchild.pid"
    child = int(value_of(await kernel.run("child", child_source)))
    kernel.acknowledges = False
    run = kernel.dispatch("a", "for n in range(40): print(str(n % 10) * 999_999)")
    await until_state(pid, "T")
    await until_state(child, "T")  # whatever the kernel has started stops with it
    await kernel.until(lambda: len(run.text()) > 7 * MIB)
    assert len(run.text()) < 30 * MIB
    assert run.ended is None
    kernel.acknowledges = True
    kernel.acknowledge()
    await kernel.until(lambda: run.ended is not None)
    assert run.text() == "".join(str(n % 10) * 999_999 + "\n" for n in range(40))
    assert run.outcome == "ok"
    assert state_of(child) != "T"


async def test_output_past_the_limit_is_discarded_with_a_notice(kernel: Controller) -> None:
    kernel.welcome.output_bytes = 100_000
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    source = """
handle = display('first', display_id='d')
for n in range(50): print('x' * 9_999)
for n in range(20): handle.update(n)
1/0
"""
    run = await kernel.run("a", source)
    kept, _, notice = run.text().partition("[cellyard")
    after = next(event.truncated.after_bytes for event in run.events if event.HasField("truncated"))
    assert notice == f": output truncated after {after} bytes]\n"
    assert run.kinds.count("truncated") == 1
    assert 90_000 < len(kept) <= 100_001
    assert run.outputs[0]["data"]["text/plain"] == "19", "the last state of a display survives"
    assert run.error is not None, "how it ended is told"
    assert run.outcome == "error"
    assert (await kernel.run("b", "print('as usual')")).text() == "as usual\n"


async def test_too_many_outputs_are_discarded_with_a_notice(kernel: Controller) -> None:
    kernel.welcome.output_count = 100
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    run = await kernel.run("a", "for n in range(300): display(n)\nprint('unseen')\n'value'")
    shown = [output for output in run.outputs if output["output_type"] == "display_data"]
    assert len(shown) == 100
    assert run.text().startswith("[cellyard: output truncated after ")
    assert "unseen" not in run.text()
    assert value_of(run) == '"value"', "the value is no output"


async def test_100_mb_in_one_line_pass_where_the_limit_allows(agent: AgentProcess, kernel: Controller) -> None:
    kernel.welcome.output_bytes = 256 * MIB
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    run = await kernel.run("a", "print('0123456789' * 10_000_000)")
    text = run.text()
    assert len(text) == 100_000_001
    assert text.count("0123456789") == 10_000_000
    assert run.outcome == "ok"
    assert peak_memory(agent.pid) < 200 * MIB


async def test_a_flood_past_the_limit_costs_the_agent_little(
    agent: AgentProcess, kernel: Controller, kernel_host: str
) -> None:
    run = await kernel.run("a", "for n in range(300): print('x' * 1_000_000)\nprint('last')")
    assert len(run.text()) < 17 * MIB
    assert run.outcome == "ok"
    # ZeroMQ reads ahead of a busy agent without a bound: else it would lose messages.
    assert peak_memory(agent.pid) < (150 if kernel_host == "python" else 450) * MIB


async def test_a_million_tiny_prints_end(kernel: Controller) -> None:
    run = await kernel.run("a", "for n in range(1_000_000): print(n)")
    assert run.text() == "".join(f"{n}\n" for n in range(1_000_000))


async def test_programs_may_flood_too(kernel: Controller) -> None:
    run = await kernel.run("a", "import subprocess\nsubprocess.run('seq 1 1000000', shell=True)\nNone")
    assert run.text() == "".join(f"{n}\n" for n in range(1, 1_000_001))


def value_of(run: object) -> str:
    value = run.value  # type: ignore[attr-defined]
    assert value is not None
    return str(value.json)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def until_state(pid: int, state: str, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while state_of(pid) != state:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


def peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
