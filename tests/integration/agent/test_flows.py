"""Files and commands of a real agent, over a real link."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.integration.agent.controller import AgentProcess, Controller

from cellyard_controller.sandboxes.flows import (
    Content,
    Done,
    Flow,
    FlowBroken,
    FlowFailed,
    Opened,
    ReadFile,
    RunCommand,
    WriteFile,
)

MIB = 1024 * 1024


def command(*argv: str, timeout_s: float = 0.0, max_output: int = MIB) -> RunCommand:
    return RunCommand(argv, timeout_s, max_output)


async def to_the_end(flow: Flow) -> tuple[Done, bytes, bytes]:
    out, err = b"", b""
    while not isinstance(said := await flow.next(), Done):
        if isinstance(said, Content):
            out, err = (out, err + said.content) if said.stderr else (out + said.content, err)
    return said, out, err


async def run(controller: Controller, *argv: str, **limits: float | int) -> tuple[Done, bytes, bytes]:
    async with controller.flows.open(command(*argv, **limits)) as flow:  # type: ignore[arg-type]
        flow.end_input()
        return await to_the_end(flow)


async def pid_of(flow: Flow) -> int:
    opened = await flow.next()
    assert isinstance(opened, Opened)
    return opened.pid


async def said(flow: Flow) -> bytes:
    content = await flow.next()
    assert isinstance(content, Content)
    return content.content


async def gone(pid: int) -> None:
    """Returns once a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


async def test_a_command_runs_in_the_home_with_the_kernels_variables(
    agent: AgentProcess, controller: Controller
) -> None:
    await controller.start_kernel(env={"GREETING": "hello"})
    done, out, err = await run(controller, "sh", "-c", 'pwd; echo "$GREETING $HOME"; echo no >&2; exit 3')
    assert out.decode() == f"{agent.home}\nhello {agent.home}\n"
    assert err == b"no\n"
    assert (done.exit_code, done.signal, done.timed_out) == (3, 0, False)


async def test_a_program_that_cannot_be_run_says_why(agent: AgentProcess, controller: Controller) -> None:
    (agent.home / "text").write_text("no program")
    for program, kind, why in (
        ("nonesuch", "not_found", "not found"),
        ("./text", "refused", "permission denied"),
        ("/etc", "refused", "permission denied"),
    ):
        with pytest.raises(FlowFailed, match=why) as refused:
            await run(controller, program)
        assert refused.value.kind == kind


async def test_what_a_command_reads_is_streamed_to_it(agent: AgentProcess, controller: Controller) -> None:
    async with controller.flows.open(command("cat", max_output=100 * MIB)) as flow:
        content = os.urandom(5 * MIB)

        async def feed() -> None:
            await flow.send(content)
            flow.end_input()

        feeding = asyncio.create_task(feed())
        done, out, _ = await to_the_end(flow)
        await feeding
    assert out == content
    assert done.exit_code == 0


async def test_a_command_that_does_not_read_holds_nobody_up(agent: AgentProcess, controller: Controller) -> None:
    async with controller.flows.open(command("true")) as flow:
        await flow.send(b"x" * 10 * MIB)
        assert (await flow.done()).exit_code == 0


async def test_output_past_the_limit_is_discarded_and_the_command_goes_on(
    agent: AgentProcess, controller: Controller
) -> None:
    done, out, err = await run(
        controller, "sh", "-c", "head -c 3000000 /dev/zero; echo end >&2; exit 4", max_output=MIB
    )
    assert len(out) + len(err) == MIB
    assert done.discarded_bytes == 3_000_004 - MIB
    assert done.exit_code == 4


async def test_a_command_whose_output_nobody_reads_waits_and_costs_nothing(
    agent: AgentProcess, controller: Controller
) -> None:
    async with controller.flows.open(command("yes", max_output=1000 * MIB)) as flow:
        pid = await pid_of(flow)
        await said(flow)
        await controller.start_kernel()  # the link's other traffic is not held up
        assert (await controller.run("a", "1 + 1")).outcome == "ok"
        assert resident(agent.pid) < 100 * MIB
    await gone(pid)


async def test_a_timeout_kills_the_whole_group(agent: AgentProcess, controller: Controller) -> None:
    async with controller.flows.open(
        command("sh", "-c", "trap '' TERM INT; sleep 600 & echo $!; wait", timeout_s=0.5)
    ) as flow:
        child = int(await said_after_start(flow))
        done = await flow.done()
    assert done.timed_out
    assert done.signal == 9
    await gone(child)


async def said_after_start(flow: Flow) -> bytes:
    await pid_of(flow)
    return await said(flow)


async def test_leaving_a_command_kills_its_group(agent: AgentProcess, controller: Controller) -> None:
    async with controller.flows.open(command("sh", "-c", "sleep 600 & echo $!; wait")) as flow:
        pid = await pid_of(flow)
        child = int(await said(flow))
    await gone(child)
    await gone(pid)


async def test_what_a_command_leaves_in_its_group_ends_with_it(agent: AgentProcess, controller: Controller) -> None:
    _, out, _ = await run(controller, "sh", "-c", "sleep 600 & echo $!")
    await gone(int(out))


async def test_a_restart_of_the_kernel_kills_commands(agent: AgentProcess, controller: Controller) -> None:
    await controller.start_kernel()
    async with controller.flows.open(command("sleep", "600")) as flow:
        await controller.restart()
        assert (await flow.done()).signal == 9


async def test_a_broken_connection_kills_commands_and_undoes_uploads(
    agent: AgentProcess, controller: Controller
) -> None:
    async with (
        controller.flows.open(command("sleep", "600")) as running,
        controller.flows.open(WriteFile("half", 100)) as writing,
    ):
        pid = await pid_of(running)
        await writing.send(b"x" * 50)
        assert isinstance(await writing.next(), Opened)
        controller.drop()
        with pytest.raises(FlowBroken):
            await running.done()
        with pytest.raises(FlowBroken):
            await writing.send(b"more")
    await gone(pid)
    await controller.until(lambda: controller.connected)
    assert list(agent.home.iterdir()) == []
    assert await controller.put_file("whole", b"x") == ""


async def test_transfers_and_a_flood_of_output_go_on_beside_each_other(
    agent: AgentProcess, controller: Controller
) -> None:
    await controller.start_kernel()
    content = os.urandom(20 * MIB)
    flood = controller.dispatch("flood", "for n in range(2_000): print('x' * 5_000)")
    assert await controller.put_file("big", content) == ""
    read = bytearray()
    async with controller.flows.open(ReadFile("big", 100 * MIB)) as flow:
        while not isinstance(each := await flow.next(), Done):
            if isinstance(each, Content):
                read += each.content
    assert bytes(read) == content
    await controller.until(lambda: flood.ended is not None)
    assert flood.outcome == "ok"
    assert len(flood.text()) == 2_000 * 5_001
