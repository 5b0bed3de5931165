"""The fake runtime keeps to the protocol of the link as a real agent does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.runtimes.links import LinkServer

from cellyard_controller.runtimes import RuntimeFailed, SandboxSpec, Template
from cellyard_controller.runtimes.fake import FakeRuntime, ManualClock
from cellyard_controller.sandboxes.flows import Content, Done, FlowFailed, Opened, ReadFile, RemovePath, WriteFile
from cellyard_proto.v1 import link_pb2 as link

TEMPLATE = Template("default", "")


@dataclass
class Stage:
    """A fake runtime with one sandbox, and the controller's end of its link."""

    runtime: FakeRuntime
    clock: ManualClock
    server: LinkServer
    instance_id: str


def spec(folder: Path, sandbox_id: str = "sb-1") -> SandboxSpec:
    return SandboxSpec(sandbox_id, "controller-1", TEMPLATE, folder, 64_001)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    clock = ManualClock()
    runtime = FakeRuntime(clock=clock)
    async with LinkServer().listening(tmp_path) as server:
        instance_id = await runtime.start(spec(tmp_path))
        await server.ready()
        yield Stage(runtime, clock, server, instance_id)
        await runtime.close()


async def test_a_script_shows_what_a_cell_would(stage: Stage) -> None:
    lines = ["print hello", "stderr oh no", "display d one", "update d two", "clear wait", "html <b>x</b>", "value 2"]
    stage.server.dispatch("e1", "\n".join(lines))
    ended = await stage.server.end("e1")
    assert ended.outcome == link.OUTCOME_OK
    assert (ended.value.json, ended.value.is_repr, ended.execution_count) == ("2", False, 1)
    kinds = ["started", "output", "output", "output", "display_updated", "clear_output", "output", "output", "ended"]
    assert stage.server.kinds("e1") == kinds
    assert stage.server.text("e1") == "hello\n"
    assert stage.server.text("e1", "stderr") == "oh no\n"
    assert [event.number for event in stage.server.events] == list(range(1, 10))


async def test_what_is_no_command_is_a_value(stage: Stage) -> None:
    stage.server.dispatch("e1", "1+1")
    ended = await stage.server.end("e1")
    assert (ended.value.json, ended.value.is_repr) == ('"1+1"', True)
    result = stage.server.events[1].output.execute_result
    assert result.data["text/plain"].text == "1+1"


async def test_an_error_ends_the_script(stage: Stage) -> None:
    stage.server.dispatch("e1", "error ValueError not that one\nprint never")
    assert (await stage.server.end("e1")).outcome == link.OUTCOME_ERROR
    error = stage.server.events[1].output.error
    assert (error.ename, error.evalue) == ("ValueError", "not that one")
    assert stage.server.text("e1") == ""


async def test_executions_run_one_after_the_other_and_each_once(stage: Stage) -> None:
    stage.server.dispatch("e1", "gate go")
    stage.server.dispatch("e2", "print two")
    stage.server.dispatch("e1", "print again")
    await stage.runtime.reached("go")
    assert stage.server.kinds("e2") == []
    stage.runtime.open("go")
    assert (await stage.server.end("e2")).execution_count == 2
    stage.server.dispatch("e2", "print again")
    stage.server.send(link.ToAgent(ping=link.Ping(id=7)))
    await stage.server.until(lambda: stage.server.pongs == [7])
    assert stage.server.text("e1") == ""
    assert stage.server.text("e2") == "two\n"


async def test_events_that_were_not_committed_come_again_after_a_reconnect(stage: Stage) -> None:
    stage.server.dispatch("e1", "print one\ngate go\nprint two")
    await stage.runtime.reached("go")
    await stage.server.until(lambda: len(stage.server.events) == 2)
    stage.server.welcome.committed_number = 1
    stage.runtime.drop_link(stage.instance_id)
    hello = await stage.server.connected(times=2)
    assert (hello.last_number, list(hello.held_executions)) == (2, ["e1"])
    assert hello.kernel.state == link.HOST_STATE_READY
    stage.runtime.open("go")
    await stage.server.end("e1")
    assert [event.number for event in stage.server.events] == [1, 2, 2, 3, 4]
    stage.server.send(link.ToAgent(acknowledge=link.Acknowledge(number=4)))
    stage.server.send(link.ToAgent(ping=link.Ping(id=1)))
    await stage.server.until(lambda: stage.server.pongs == [1])
    stage.server.welcome.committed_number = 4
    stage.runtime.drop_link(stage.instance_id)
    hello = await stage.server.connected(times=3)
    assert (hello.last_number, list(hello.held_executions)) == (4, [])


async def test_a_sandbox_that_stays_away_runs_on(stage: Stage) -> None:
    stage.server.dispatch("e1", "gate go\nprint done")
    await stage.runtime.reached("go")
    stage.runtime.drop_link(stage.instance_id, stay_away=True)
    stage.runtime.open("go")
    await asyncio.sleep(0)
    assert len(stage.server.hellos) == 1
    stage.runtime.let_dial(stage.instance_id)
    await stage.server.end("e1")
    assert stage.server.text("e1") == "done\n"


async def test_an_interrupt_ends_what_listens(stage: Stage) -> None:
    stage.server.dispatch("e1", "hang")
    stage.server.dispatch("e2", "print untouched")
    await stage.server.started("e1")
    stage.server.send(link.ToAgent(interrupt=link.Interrupt(execution_id="e1")))
    ended = await stage.server.end("e1")
    assert (ended.outcome, ended.interrupted_by) == (link.OUTCOME_ERROR, "interrupt")
    assert (await stage.server.end("e2")).interrupted_by == ""


async def test_an_interrupt_that_comes_early_waits_for_its_execution(stage: Stage) -> None:
    stage.server.dispatch("e1", "gate go")
    stage.server.dispatch("e2", "hang")
    stage.server.send(link.ToAgent(interrupt=link.Interrupt(execution_id="e2")))
    await stage.runtime.reached("go")
    stage.runtime.open("go")
    assert (await stage.server.end("e1")).outcome == link.OUTCOME_OK
    assert (await stage.server.end("e2")).interrupted_by == "interrupt"


async def test_a_late_interrupt_touches_nothing(stage: Stage) -> None:
    stage.server.dispatch("e1", "print one")
    await stage.server.end("e1")
    stage.server.send(link.ToAgent(interrupt=link.Interrupt(execution_id="e1")))
    stage.server.dispatch("e2", "print two")
    ended = await stage.server.end("e2")
    assert (ended.outcome, ended.interrupted_by) == (link.OUTCOME_OK, "")


async def test_a_deaf_cell_is_restarted_where_the_interrupt_says_so(stage: Stage) -> None:
    stage.server.dispatch("e1", "hang deaf")
    stage.server.dispatch("e2", "print never")
    await stage.server.started("e1")
    stage.server.send(link.ToAgent(interrupt=link.Interrupt(execution_id="e1", restart_after_s=3)))
    await stage.clock.until_sleeping(1)
    stage.clock.advance(3)
    ended = await stage.server.end("e1")
    assert (ended.outcome, ended.reason) == (link.OUTCOME_KERNEL_GONE, "kernel_restarted")
    assert (await stage.server.end("e2")).outcome == link.OUTCOME_KERNEL_GONE
    await stage.server.until(lambda: stage.server.statuses[-1].generation == 2)
    stage.server.dispatch("e3", "1")
    assert (await stage.server.end("e3")).execution_count == 1


async def test_a_timeout_interrupts_at_its_time_and_restarts_what_is_deaf(stage: Stage) -> None:
    stage.server.dispatch("e1", "hang", timeout_s=10)
    await stage.server.started("e1")
    await stage.clock.until_sleeping(1)
    stage.clock.advance(9.9)
    stage.server.send(link.ToAgent(ping=link.Ping(id=1)))
    await stage.server.until(lambda: stage.server.pongs == [1])
    assert stage.server.kinds("e1") == ["started"]
    stage.clock.advance(0.1)
    assert (await stage.server.end("e1")).interrupted_by == "timeout"
    stage.server.dispatch("e2", "hang deaf", timeout_s=10)
    await stage.server.started("e2")
    await stage.clock.until_sleeping(1)
    stage.clock.advance(10)
    await stage.clock.until_sleeping(1)
    stage.clock.advance(5)
    ended = await stage.server.end("e2")
    assert (ended.outcome, ended.interrupted_by) == (link.OUTCOME_KERNEL_GONE, "timeout")


async def test_a_dead_kernel_says_why_and_takes_nothing_more(stage: Stage) -> None:
    stage.server.dispatch("e1", "exit 3")
    ended = await stage.server.end("e1")
    assert (ended.outcome, ended.reason) == (link.OUTCOME_KERNEL_GONE, "exit code 3")
    await stage.server.until(lambda: stage.server.statuses[-1].state == link.HOST_STATE_DEAD)
    assert stage.server.statuses[-1].reason == "exit code 3"
    stage.server.dispatch("e2", "1")
    assert (await stage.server.end("e2")).outcome == link.OUTCOME_KERNEL_GONE
    stage.server.send(link.ToAgent(restart_kernel=link.RestartKernelHost(generation=1)))
    stage.server.dispatch("e3", "1")
    assert (await stage.server.end("e3")).outcome == link.OUTCOME_OK


async def test_a_restart_of_an_earlier_generation_is_left_alone(stage: Stage) -> None:
    for _ in range(2):
        stage.server.send(link.ToAgent(restart_kernel=link.RestartKernelHost(generation=1)))
    stage.server.dispatch("e1", "1")
    await stage.server.end("e1")
    assert stage.server.statuses[-1].generation == 2


async def test_output_past_the_limit_is_cut_with_a_notice(stage: Stage) -> None:
    stage.server.welcome.output_bytes = 1000
    stage.runtime.drop_link(stage.instance_id)
    await stage.server.connected(times=2)
    stage.server.dispatch("e1", "flood 1000\nvalue 1")
    ended = await stage.server.end("e1")
    assert ended.value.json == "1"
    assert "output truncated after" in stage.server.text("e1")
    assert stage.server.kinds("e1")[-2:] == ["truncated", "ended"]


async def test_files_are_written_read_and_removed_beneath_the_home(stage: Stage) -> None:
    flows = stage.server.flows
    async with flows.open(WriteFile("a/data.csv", 3)) as flow:
        await flow.send(b"1,2")
        await flow.done()
    assert stage.runtime.files(stage.instance_id) == {"a/data.csv": b"1,2"}
    async with flows.open(ReadFile("a/data.csv", 100)) as flow:
        assert await flow.next() == Opened(3, 0)
        assert await flow.next() == Content(b"1,2")
        assert await flow.next() == Done()
    async with flows.open(RemovePath("a/data.csv")) as flow:
        await flow.done()
    for what in (WriteFile("../data.csv", 0), ReadFile("a/data.csv", 100)):
        async with flows.open(what) as flow:
            with pytest.raises(FlowFailed):
                await flow.done()
    assert stage.runtime.files(stage.instance_id) == {}


async def test_a_frozen_agent_answers_no_ping_until_it_thaws(stage: Stage) -> None:
    stage.runtime.freeze(stage.instance_id)
    stage.server.send(link.ToAgent(ping=link.Ping(id=1)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert stage.server.pongs == []
    stage.runtime.thaw(stage.instance_id)
    await stage.server.until(lambda: stage.server.pongs == [1])


async def test_a_kernel_can_fail_to_start(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    runtime.fail_next_kernel("no such module")
    async with LinkServer().listening(tmp_path) as server:
        await runtime.start(spec(tmp_path))
        await server.connected()
        server.send(link.ToAgent(start_kernel=link.StartKernelHost(kernel_type="python")))
        await server.until(lambda: server.statuses and server.statuses[-1].state == link.HOST_STATE_DEAD)
        assert server.statuses[-1].reason == "start_failed: no such module"
        await runtime.close()


async def test_ends_are_told_once_with_code_and_reason(stage: Stage) -> None:
    exits: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(stage.runtime.watch(exits.put_nowait))
    await stage.runtime.kill(stage.instance_id, oom=True)
    assert await exits.get() == stage.instance_id
    instance = await stage.runtime.inspect(stage.instance_id)
    assert instance is not None
    assert (instance.running, instance.exit_code, instance.oom_killed) == (False, 137, True)
    assert [i.sandbox_id for i in await stage.runtime.instances("controller-1")] == ["sb-1"]
    await stage.runtime.stop(stage.instance_id)
    await stage.runtime.stop(stage.instance_id)
    assert await stage.runtime.inspect(stage.instance_id) is None
    assert exits.empty()
    watching.cancel()


async def test_goodbye_ends_the_sandbox(stage: Stage) -> None:
    exits: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(stage.runtime.watch(exits.put_nowait))
    stage.server.send(link.ToAgent(goodbye=link.Goodbye(reason="shutdown")))
    assert await exits.get() == stage.instance_id
    instance = await stage.runtime.inspect(stage.instance_id)
    assert instance is not None
    assert instance.exit_code == 0
    watching.cancel()


async def test_an_agent_alone_for_too_long_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    runtime = FakeRuntime(clock=clock)
    instance_id = await runtime.start(spec(tmp_path))
    exits: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(runtime.watch(exits.put_nowait))
    await clock.until_sleeping(1)
    clock.advance(600)
    assert await exits.get() == instance_id
    watching.cancel()
    await runtime.close()


async def test_a_start_fails_once_when_told_to(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    runtime.fail_next_start("image_missing", "the image is missing")
    with pytest.raises(RuntimeFailed, match="the image is missing") as failure:
        await runtime.start(spec(tmp_path))
    assert failure.value.reason == "image_missing"
    assert await runtime.instances("controller-1") == []
    await runtime.start(spec(tmp_path))
    await runtime.close()


async def test_a_hanging_engine_fails_calls_in_time_and_leaves_sandboxes_running(stage: Stage) -> None:
    stage.runtime.hang_engine()
    call = asyncio.create_task(stage.runtime.inspect(stage.instance_id))
    await stage.clock.until_sleeping(1)
    stage.server.dispatch("e1", "1")
    await stage.server.end("e1")
    assert not call.done()
    stage.clock.advance(5)
    with pytest.raises(RuntimeFailed) as failure:
        await call
    assert failure.value.reason == "runtime_lost"
    assert not (await asyncio.gather(stage.runtime.readiness(TEMPLATE), _soon(stage)))[0].ready
    stage.runtime.resume_engine()
    assert (await stage.runtime.readiness(TEMPLATE)).ready


async def _soon(stage: Stage) -> None:
    await stage.clock.until_sleeping(1)
    stage.clock.advance(5)
