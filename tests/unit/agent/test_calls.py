"""Calls that wait for their answer: each gets exactly one, whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.unit.agent.fakes import ScriptedHost, VirtualClock

from cellyard_proto.v1 import link_pb2
from cellyard_sandbox.calls import Calls, Running
from cellyard_sandbox.executions import Executions
from cellyard_sandbox.kernel_host import HostCall, Question, RunEnd
from cellyard_sandbox.outbox import Outbox

CALL = HostCall("search", '["cats"]', "{}")
END = RunEnd(ok=True, execution_count=1, value=None)


class Caller:
    """Code that waits for the answer to one call."""

    def __init__(self, execution_id: str | None) -> None:
        self.execution_id = execution_id
        self.call_id = ""
        self.answers: list[link_pb2.CallAnswer] = []
        self.hung_up = False

    @property
    def waits(self) -> bool:
        return not self.answers and not self.hung_up


class Sandbox:
    """Calls with what they know of executions."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.running: Running | None = None
        self.calls = Calls(self.outbox, lambda: self.running)

    def call(self) -> Caller:
        caller = Caller(self.running.execution_id if self.running is not None else None)
        caller.call_id = self.calls.host_called(CALL, caller.answers.append)
        return caller

    def ask(self, execution_id: str = "a", prompt: str = "? ") -> Caller:
        caller = Caller(execution_id)
        caller.call_id = self.calls.input_asked(execution_id, Question(prompt, password=False), caller.answers.append)
        return caller

    def events(self) -> list[link_pb2.Event]:
        events: list[link_pb2.Event] = []
        while (batch := self.outbox.next_batch()) is not None:
            events.extend(batch.events)
        return events


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox()


def test_a_call_is_told_after_the_start_of_its_execution(sandbox: Sandbox) -> None:
    sandbox.running = Running("a", started=False)
    caller = sandbox.call()
    assert sandbox.events() == []
    assert sandbox.calls.open == [], "the controller knows nothing of it yet"
    sandbox.running = Running("a", started=True)
    sandbox.calls.execution_started("a")
    (event,) = sandbox.events()
    assert (event.execution_id, event.host_call.call_id) == ("a", caller.call_id)
    assert (event.host_call.name, event.host_call.args_json, event.host_call.kwargs_json) == (
        "search",
        '["cats"]',
        "{}",
    )
    assert sandbox.calls.open == [link_pb2.OpenCall(execution_id="a", call_id=caller.call_id)]


def test_where_nothing_runs_nobody_answers(sandbox: Sandbox) -> None:
    caller = sandbox.call()
    assert caller.call_id == ""
    assert [answer.WhichOneof("answer") for answer in caller.answers] == ["unavailable"]


def test_a_question_ends_the_one_before_and_no_other_call(sandbox: Sandbox) -> None:
    sandbox.running = Running("a", started=True)
    call, first = sandbox.call(), sandbox.ask()
    second = sandbox.ask(prompt="ü" * 100_000)
    assert [caller.waits for caller in (call, first, second)] == [True, False, True]
    assert len(sandbox.events()[-1].input_requested.prompt.encode()) <= 64 * 1024
    assert not sandbox.ask("another").waits


class Lives(RuleBasedStateMachine):
    """The agent's executions and calls through starts, answers, hang-ups, ends, deaths and reconnects."""

    def __init__(self) -> None:
        super().__init__()
        self.host = ScriptedHost()
        self.outbox = Outbox()
        self.executions = Executions(VirtualClock(), lambda: self.host, self.outbox, lambda: None)
        self.calls = Calls(self.outbox, lambda: self.executions.running)
        self.executions.kernel_ready()
        self.dispatched = 0
        self.callers: list[Caller] = []
        self.told: dict[str, str] = {}
        self.started: set[str] = set()

    @property
    def running(self) -> str | None:
        running = self.executions.running
        return running.execution_id if running is not None else None

    @rule()
    def dispatch(self) -> None:
        self.dispatched += 1
        self.executions.dispatch(link_pb2.Dispatch(execution_id=f"e{self.dispatched}", source="", allow_stdin=True))

    @rule()
    def start(self) -> None:
        if self.running is not None:
            self.started.add(self.running)
            self.executions.run_started(self.running, 1)
            self.calls.execution_started(self.running)

    @rule()
    def end(self) -> None:
        ended = self.running
        if ended is not None:
            self.executions.run_ended(ended, END)
            self.calls.execution_ended(ended)

    @rule(for_good=st.booleans())
    def lose_the_kernel(self, for_good: bool) -> None:
        self.executions.kernel_gone("oom", for_good=for_good)
        self.calls.kernel_gone()
        assert not any(caller.waits for caller in self.callers)

    @rule()
    def come_up(self) -> None:
        if self.running is None:
            self.executions.kernel_ready()

    @rule(is_input=st.booleans())
    def call(self, is_input: bool) -> None:
        caller = Caller(self.running)
        if is_input and self.running is not None:
            question = Question("? ", password=False)
            caller.call_id = self.calls.input_asked(self.running, question, caller.answers.append)
        else:
            caller.call_id = self.calls.host_called(CALL, caller.answers.append)
        assert caller.waits == (self.running is not None)
        self.callers.append(caller)

    @rule(which=st.integers(0, 50))
    def hang_up(self, which: int) -> None:
        if self.callers:
            caller = self.callers[which % len(self.callers)]
            caller.hung_up = caller.hung_up or caller.waits
            self.calls.dropped(caller.call_id)

    @rule(which=st.integers(0, 50), again=st.booleans())
    def answer(self, which: int, again: bool) -> None:
        if self.callers:
            caller = self.callers[which % len(self.callers)]
            if caller.call_id not in self.told:
                return  # the controller knows nothing of it
            given = link_pb2.CallAnswer(call_id=caller.call_id, value_json="1")
            expected = [given] if caller.waits else list(caller.answers)
            for _ in range(1 + again):
                self.calls.answered(given)
            assert caller.answers == expected

    @rule()
    def reconnect(self) -> None:
        """What a controller that forgot everything is sent again are the same calls."""
        self.outbox.rewind(0)
        before = dict(self.told)
        self.read()
        assert {call_id: self.told[call_id] for call_id in before} == before

    @invariant()
    def each_call_waits_or_has_one_answer(self) -> None:
        self.read()
        for caller in self.callers:
            assert len(caller.answers) + caller.hung_up == (not caller.waits)
            if caller.waits:
                assert caller.execution_id == self.running, "no call waits longer than its execution runs"

    @invariant()
    def the_open_calls_are_those_that_wait_and_were_told(self) -> None:
        self.read()
        waiting = [caller for caller in self.callers if caller.waits and caller.call_id in self.told]
        opened = [(call.execution_id, call.call_id) for call in self.calls.open]
        assert opened == [(caller.execution_id, caller.call_id) for caller in waiting]
        assert len([caller for caller in self.callers if caller.waits]) >= len(opened)
        if self.running in self.started:
            assert len(waiting) == len([caller for caller in self.callers if caller.waits])

    def read(self) -> None:
        self.outbox.seal()
        seen_started: set[str] = set()
        while (batch := self.outbox.next_batch()) is not None:
            for event in batch.events:
                if event.HasField("started"):
                    seen_started.add(event.execution_id)
                for call_id in (event.host_call.call_id, event.input_requested.call_id):
                    if call_id:
                        assert self.told.setdefault(call_id, event.execution_id) == event.execution_id
                        assert event.execution_id in self.started | seen_started

    def teardown(self) -> None:
        self.lose_the_kernel(for_good=True)
        ids = [caller.call_id for caller in self.callers if caller.call_id]
        assert len(set(ids)) == len(ids)


TestLives = Lives.TestCase
