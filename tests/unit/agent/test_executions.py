"""The agent's order of executions, on time that tests move and a host that only notes."""

from __future__ import annotations

import pytest
from tests.unit.agent.fakes import ScriptedHost, VirtualClock

from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox.executions import Executions
from cellyard_sandbox.kernel_host import RunEnd
from cellyard_sandbox.limits import OutputLimits
from cellyard_sandbox.messages import Chunk
from cellyard_sandbox.outbox import Outbox

OK = RunEnd(ok=True, execution_count=1, value=None)


class Sandbox:
    """Executions with everything that they know."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.host = ScriptedHost()
        self.outbox = Outbox()
        self.stuck = 0
        self.executions = Executions(self.clock, lambda: self.host, self.outbox, self._on_stuck)
        self.events: list[link_pb2.Event] = []

    def _on_stuck(self) -> None:
        self.stuck += 1
        self.executions.kernel_gone("kernel_restarted", for_good=False)

    def dispatch(self, execution_id: str, timeout_s: float = 0) -> None:
        order = link_pb2.Dispatch(execution_id=execution_id, source=f"source of {execution_id}", timeout_s=timeout_s)
        self.executions.dispatch(order)

    def kinds(self, execution_id: str) -> list[str]:
        self.outbox.seal()
        while (batch := self.outbox.next_batch()) is not None:
            self.events.extend(batch.events)
        return [event.WhichOneof("event") or "" for event in self.events if event.execution_id == execution_id]

    def end(self, execution_id: str) -> link_pb2.ExecutionEnded:
        assert self.kinds(execution_id).count("ended") == 1
        return next(e.ended for e in self.events if e.execution_id == execution_id and e.HasField("ended"))

    def text(self, execution_id: str, stream: str = "stdout") -> str:
        self.kinds(execution_id)
        streams = [e.output.stream for e in self.events if e.execution_id == execution_id]
        return "".join(chunk.text for chunk in streams if chunk.name == stream)


@pytest.fixture
def sandbox() -> Sandbox:
    sandbox = Sandbox()
    sandbox.executions.kernel_ready()
    return sandbox


def test_the_next_source_goes_out_when_the_one_before_has_ended(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.dispatch("b")
    assert sandbox.host.ran == [("a", "source of a")]
    sandbox.executions.run_started("a", 1)
    sandbox.executions.run_ended("a", OK)
    assert sandbox.host.ran[1:] == [("b", "source of b")]
    assert sandbox.kinds("a") == ["started", "ended"]


def test_an_id_is_taken_once_also_after_its_end_was_acknowledged(sandbox: Sandbox) -> None:
    for _ in range(2):
        sandbox.dispatch("a")
    sandbox.executions.run_ended("a", OK)
    sandbox.dispatch("a")
    sandbox.executions.acknowledged(sandbox.outbox.last_number)
    sandbox.dispatch("a")
    assert len(sandbox.host.ran) == 1


def test_held_executions_are_those_whose_end_is_not_acknowledged(sandbox: Sandbox) -> None:
    for execution_id in "abc":
        sandbox.dispatch(execution_id)
    sandbox.executions.run_ended("a", OK)
    first_end = sandbox.outbox.last_number
    sandbox.executions.run_ended("b", OK)
    assert sandbox.executions.held == ["a", "b", "c"]
    sandbox.executions.acknowledged(first_end)
    assert sandbox.executions.held == ["b", "c"]


def test_nothing_runs_before_a_kernel_is_ready() -> None:
    sandbox = Sandbox()
    sandbox.dispatch("a")
    assert sandbox.host.ran == []
    sandbox.executions.kernel_ready()
    assert len(sandbox.host.ran) == 1


def test_an_interrupt_is_repeated_until_the_end_and_no_longer(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.executions.run_started("a", 1)
    sandbox.executions.interrupt("a", 0)
    assert sandbox.host.interrupted == ["a"]
    assert sandbox.executions.interrupting
    sandbox.clock.pass_s(0.6)
    assert sandbox.host.interrupted == ["a"] * 3
    sandbox.dispatch("b")
    sandbox.executions.run_ended("a", OK)
    sandbox.clock.pass_s(10)
    assert sandbox.host.interrupted == ["a"] * 3
    assert sandbox.end("a").interrupted_by == "interrupt"
    assert not sandbox.executions.interrupting


def test_an_interrupt_waits_for_the_start(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.dispatch("b")
    sandbox.executions.interrupt("a", 0)
    sandbox.executions.interrupt("b", 0)
    assert sandbox.host.interrupted == []
    sandbox.executions.run_started("a", 1)
    assert sandbox.host.interrupted == ["a"]
    sandbox.executions.run_ended("a", OK)
    sandbox.executions.run_started("b", 2)
    assert sandbox.host.interrupted == ["a", "b"]


def test_an_interrupt_for_what_has_ended_hits_nobody(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.executions.run_ended("a", OK)
    sandbox.executions.interrupt("a", 1)
    sandbox.executions.acknowledged(sandbox.outbox.last_number)
    sandbox.executions.interrupt("a", 1)
    sandbox.dispatch("b")
    sandbox.executions.run_started("b", 2)
    sandbox.clock.pass_s(10)
    assert sandbox.host.interrupted == []
    assert sandbox.stuck == 0


def test_a_timeout_counts_from_the_start(sandbox: Sandbox) -> None:
    sandbox.dispatch("a", timeout_s=2)
    sandbox.clock.pass_s(10)
    assert sandbox.host.interrupted == []
    sandbox.executions.run_started("a", 1)
    sandbox.clock.pass_s(1.9)
    assert sandbox.host.interrupted == []
    sandbox.clock.pass_s(0.2)
    assert sandbox.host.interrupted == ["a"]
    sandbox.executions.run_ended("a", RunEnd(False, 1, None))
    assert sandbox.end("a").interrupted_by == "timeout"
    assert sandbox.end("a").outcome == link_pb2.OUTCOME_ERROR
    sandbox.clock.pass_s(10)
    assert sandbox.stuck == 0


def test_a_timeout_that_is_ignored_ends_the_kernel(sandbox: Sandbox) -> None:
    sandbox.dispatch("a", timeout_s=2)
    sandbox.dispatch("b")
    sandbox.executions.run_started("a", 1)
    sandbox.clock.pass_s(6.9)
    assert sandbox.stuck == 0
    sandbox.clock.pass_s(0.2)
    assert sandbox.stuck == 1
    end = sandbox.end("a")
    assert (end.outcome, end.reason, end.interrupted_by) == (
        link_pb2.OUTCOME_KERNEL_GONE,
        "kernel_restarted",
        "timeout",
    )
    assert "kernel was restarted" in sandbox.text("a", "stderr")
    assert sandbox.end("b").reason == "kernel_restarted"
    sandbox.executions.run_ended("a", OK)
    assert sandbox.kinds("a").count("ended") == 1
    sandbox.dispatch("c")
    assert sandbox.host.ran[-1][0] == "a", "it waits for the next kernel"
    sandbox.executions.kernel_ready()
    assert sandbox.host.ran[-1][0] == "c"


def test_an_interrupt_restarts_only_where_it_was_asked_to(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.executions.run_started("a", 1)
    sandbox.executions.interrupt("a", 0)
    sandbox.clock.pass_s(60)
    assert sandbox.stuck == 0
    sandbox.executions.interrupt("a", 3)
    sandbox.clock.pass_s(2.9)
    assert sandbox.stuck == 0
    sandbox.clock.pass_s(0.2)
    assert sandbox.stuck == 1


def test_an_interrupt_that_restarts_does_so_where_the_kernel_takes_nothing_up(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.executions.interrupt("a", 0)
    sandbox.clock.pass_s(60)
    assert sandbox.stuck == 0
    sandbox.executions.interrupt("a", 3)
    sandbox.clock.pass_s(3.1)
    assert sandbox.stuck == 1
    assert sandbox.end("a").reason == "kernel_restarted"


def test_a_dead_kernel_ends_everything_that_comes_until_there_is_another(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.dispatch("b")
    sandbox.executions.run_started("a", 1)
    sandbox.executions.kernel_gone("oom", for_good=True)
    sandbox.dispatch("c")
    for execution_id in "abc":
        end = sandbox.end(execution_id)
        assert (end.outcome, end.reason) == (link_pb2.OUTCOME_KERNEL_GONE, "oom")
    assert sandbox.end("a").cpu_s == 0.5
    sandbox.executions.kernel_ready()
    sandbox.dispatch("d")
    assert sandbox.host.ran[-1][0] == "d"


def test_output_after_the_end_belongs_to_its_execution_and_its_limit(sandbox: Sandbox) -> None:
    sandbox.executions.limits = OutputLimits(max_bytes=10)
    sandbox.dispatch("a")
    sandbox.executions.run_shown("a", Chunk("stdout", "12345"))
    sandbox.executions.run_ended("a", OK)
    sandbox.dispatch("b")
    sandbox.executions.run_shown("a", Chunk("stdout", "67890x"))
    sandbox.executions.run_shown("a", Chunk("stdout", "x"))
    assert sandbox.text("a").startswith("1234567890\n[cellyard")
    assert sandbox.kinds("a")[-1] == "truncated"
    assert sandbox.executions.run_unread("a")
    assert sandbox.text("b") == ""


def test_output_of_nobody_known_stands_with_what_runs_or_nowhere(sandbox: Sandbox) -> None:
    sandbox.executions.run_shown("", Chunk("stdout", "lost"))
    sandbox.dispatch("a")
    sandbox.executions.run_shown("forged", Chunk("stdout", "found"))
    assert sandbox.text("a") == "found"
    assert sandbox.kinds("forged") == []


def test_only_the_last_executions_keep_their_late_output(sandbox: Sandbox) -> None:
    for number in range(1_001):
        sandbox.dispatch(f"e{number}")
        sandbox.executions.run_ended(f"e{number}", OK)
    sandbox.executions.run_shown("e0", Chunk("stdout", "late"))
    sandbox.executions.run_shown("e1", Chunk("stdout", "late"))
    assert sandbox.text("e0") == ""
    assert sandbox.text("e1") == "late"


def test_the_end_tells_count_value_and_usage(sandbox: Sandbox) -> None:
    sandbox.dispatch("a")
    sandbox.executions.run_started("a", 3)
    sandbox.clock.pass_s(1.5)
    sandbox.executions.run_ended("a", RunEnd(True, 3, outputs_pb2.Value(json="2")))
    end = sandbox.end("a")
    assert (end.execution_count, end.value.json, end.cpu_s, end.wall_s) == (3, "2", 0.5, 1.5)
    assert end.peak_memory_bytes == 1000


def test_who_wants_to_know_of_the_agents_span_hears_how_long_it_waited_and_nobody_else(sandbox: Sandbox) -> None:
    span = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sandbox.dispatch("a")
    sandbox.executions.dispatch(link_pb2.Dispatch(execution_id="b", source="x", traceparent=span))
    sandbox.clock.pass_s(2.0)
    sandbox.executions.run_ended("a", OK)
    sandbox.executions.run_ended("b", OK)
    assert (sandbox.end("a").traceparent, sandbox.end("a").waited_s) == ("", 0.0)
    assert (sandbox.end("b").traceparent, sandbox.end("b").waited_s) == (span, 2.0)
