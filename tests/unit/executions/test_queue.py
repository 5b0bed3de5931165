"""The queue's rules: one at a time, in order, exactly one end each, and nobody else's work is touched."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellyard_controller.executions import queue as q
from cellyard_controller.executions.model import End, Outcome, State
from cellyard_controller.ids import CellId, ExecutionId, SessionId


def entry(name: str, session: str = "s", *, stop: bool = False, deadline: float = 1e9) -> q.Entry:
    return q.Entry(ExecutionId(name), CellId(f"cell-{name}"), SessionId(session), deadline, stop)


def queue_of(*entries: q.Entry, ready: bool = True) -> q.Queue:
    queue = q.Queue(kernel_ready=ready)
    for each in entries:
        queue, _ = q.accept(queue, each)
    return queue


def test_nothing_is_dispatched_before_a_kernel_is_ready() -> None:
    queue, decisions = q.accept(q.Queue(), entry("a"))
    assert decisions == []
    queue, decisions = q.kernel_ready(queue)
    assert decisions == [q.Dispatch(ExecutionId("a"))]


def test_the_next_goes_out_when_the_one_before_has_ended() -> None:
    queue = queue_of(entry("a"), entry("b"))
    assert queue.position(ExecutionId("b")) == 1
    queue, decisions = q.ended(queue, ExecutionId("a"), Outcome.OK)
    assert decisions == [q.Finish(ExecutionId("a"), End.SUCCEEDED), q.Dispatch(ExecutionId("b"))]


def test_an_error_cancels_only_what_the_same_session_put_behind_it_for_that() -> None:
    queue = queue_of(
        entry("a", "mine"),
        entry("b", "mine", stop=True),
        entry("c", "other", stop=True),
        entry("d", "mine", stop=False),
    )
    queue, decisions = q.ended(queue, ExecutionId("a"), Outcome.ERROR)
    assert decisions == [
        q.Finish(ExecutionId("a"), End.FAILED),
        q.Finish(ExecutionId("b"), End.CANCELLED, "earlier_error"),
        q.Dispatch(ExecutionId("c")),
    ]
    assert [e.execution_id for e in queue.waiting] == ["d"]


def test_an_interrupt_cancels_what_its_session_had_waiting_then() -> None:
    queue = queue_of(entry("a", "other"), entry("b", "mine"), entry("c", "other"))
    queue, decisions = q.interrupt(queue, SessionId("mine"))
    assert decisions == [
        q.SendInterrupt(ExecutionId("a")),
        q.Finish(ExecutionId("b"), End.CANCELLED, "interrupt"),
    ]
    queue, _ = q.accept(queue, entry("late", "mine"))
    queue, decisions = q.interrupt(queue, SessionId("other"))
    assert decisions == [q.Finish(ExecutionId("c"), End.CANCELLED, "interrupt")]  # not interrupted twice
    queue, decisions = q.ended(queue, ExecutionId("a"), Outcome.ERROR, "interrupt")
    assert decisions == [q.Finish(ExecutionId("a"), End.INTERRUPTED), q.Dispatch(ExecutionId("late"))]


def test_a_cell_that_survives_its_interrupt_has_succeeded_and_past_its_timeout_it_has_timed_out() -> None:
    for by, end in (("interrupt", End.SUCCEEDED), ("timeout", End.TIMED_OUT)):
        _, decisions = q.ended(queue_of(entry("a")), ExecutionId("a"), Outcome.OK, by)
        assert decisions == [q.Finish(ExecutionId("a"), end)]


def test_nothing_queued_for_a_lost_kernel_runs_in_the_next() -> None:
    queue = queue_of(entry("a"), entry("b", "other"))
    queue, decisions = q.kernel_lost(queue, "oom")
    assert decisions == [
        q.Finish(ExecutionId("a"), End.LOST, "oom"),
        q.Finish(ExecutionId("b"), End.CANCELLED, "oom"),
    ]
    assert q.kernel_ready(queue)[1] == []


def test_a_kernel_restarted_by_a_timeout_takes_its_queue_along() -> None:
    queue = queue_of(entry("a"), entry("b"))
    _, decisions = q.ended(queue, ExecutionId("a"), Outcome.KERNEL_GONE, "timeout", "kernel_restarted")
    assert decisions == [
        q.Finish(ExecutionId("a"), End.TIMED_OUT, "kernel_restarted"),
        q.Finish(ExecutionId("b"), End.CANCELLED, "kernel_restarted"),
    ]


def test_waiting_has_a_deadline_and_running_has_none() -> None:
    queue = queue_of(entry("a", deadline=5), entry("b", deadline=5), entry("c", deadline=9))
    assert q.next_deadline(queue) == 5
    queue, decisions = q.time_passed(queue, 5, "start_timeout")
    assert decisions == [q.Finish(ExecutionId("b"), End.CANCELLED, "start_timeout")]


def test_what_waits_for_something_that_does_not_count_may_wait_longer() -> None:
    queue = q.postponed(queue_of(entry("a", deadline=5), entry("b", deadline=5), entry("c", deadline=9)), 3)
    assert q.time_passed(queue, 7, "start_timeout")[1] == []
    assert q.time_passed(queue, 8, "start_timeout")[1] == [q.Finish(ExecutionId("b"), End.CANCELLED, "start_timeout")]


def test_what_a_kernel_does_not_take_up_is_cancelled_and_that_kernel_runs_nothing_more() -> None:
    queue = queue_of(entry("a", deadline=5), entry("b", deadline=9))
    taken_up, _ = q.started(queue, ExecutionId("a"))
    assert (q.take_up_deadline(queue), q.take_up_deadline(taken_up)) == (5 + q.TAKE_UP, None)
    assert q.not_taken_up(taken_up) == (taken_up, [])
    queue, decisions = q.not_taken_up(queue)
    assert decisions == [q.Finish(ExecutionId("a"), End.CANCELLED, "start_timeout")]
    assert q.take_up_deadline(queue) is None
    assert q.kernel_lost(queue, "kernel_restarted")[1] == [
        q.Finish(ExecutionId("b"), End.CANCELLED, "kernel_restarted")
    ]


def test_reports_about_what_does_not_run_are_ignored() -> None:
    queue = queue_of(entry("a"), entry("b"))
    for forged in ("b", "unknown"):
        assert q.ended(queue, ExecutionId(forged), Outcome.OK) == (queue, [])
        assert q.started(queue, ExecutionId(forged)) == (queue, [])


SESSIONS = st.sampled_from(["s1", "s2", ""])


class EveryExecutionEndsOnce(RuleBasedStateMachine):
    """Whatever happens in whatever order: one end each, one runs at a time, an interrupt touches nothing later."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = q.Queue()
        self.accepted: dict[str, q.Entry] = {}
        self.order: list[str] = []
        self.dispatched: list[str] = []
        self.not_taken_up = ""
        self.ends: dict[str, End] = {}
        self.now = 0.0

    def take(self, step: q.Step) -> list[q.Decision]:
        self.queue, decisions = step
        for decision in decisions:
            name = decision.execution_id
            if isinstance(decision, q.Dispatch):
                assert name not in self.dispatched
                assert name not in self.ends
                self.dispatched.append(name)
            elif isinstance(decision, q.Finish):
                assert name not in self.ends, "ended twice"
                self.ends[name] = decision.end
                if decision.end is End.CANCELLED:
                    assert name not in self.dispatched or name == self.not_taken_up, "cancelled after it was sent"
                else:
                    assert name in self.dispatched
        return decisions

    @rule(session=SESSIONS, stop=st.booleans(), patience=st.integers(1, 20))
    def accept(self, session: str, stop: bool, patience: int) -> None:
        name = f"e{len(self.accepted)}"
        new = entry(name, session, stop=stop, deadline=self.now + patience)
        self.accepted[name] = new
        self.order.append(name)
        self.take(q.accept(self.queue, new))

    @rule()
    def ready(self) -> None:
        self.take(q.kernel_ready(self.queue))

    @precondition(lambda self: self.queue.running)
    @rule(outcome=st.sampled_from(list(Outcome)), by=st.sampled_from(["", "interrupt", "timeout"]))
    def end(self, outcome: Outcome, by: str) -> None:
        assert self.queue.running
        self.take(q.ended(self.queue, self.queue.running.execution_id, outcome, by, "why"))

    @precondition(lambda self: self.queue.running)
    @rule()
    def start(self) -> None:
        assert self.queue.running
        self.take(q.started(self.queue, self.queue.running.execution_id))

    @precondition(lambda self: self.queue.running and self.queue.running.state is State.DISPATCHED)
    @rule()
    def give_up(self) -> None:
        assert self.queue.running
        self.not_taken_up = self.queue.running.execution_id
        assert self.take(q.not_taken_up(self.queue))
        assert not self.queue.kernel_ready

    @rule(session=SESSIONS)
    def interrupt(self, session: str) -> None:
        before = {e.execution_id: e for e in self.queue.waiting}
        for decision in self.take(q.interrupt(self.queue, SessionId(session))):
            if isinstance(decision, q.Finish):
                assert before[decision.execution_id].session_id == session != ""

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = ExecutionId(data.draw(st.sampled_from(sorted(self.accepted))))
        others = set(self.ends)
        self.take(q.cancel(self.queue, name))
        assert set(self.ends) - others <= {name}

    @rule(seconds=st.integers(0, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.take(q.time_passed(self.queue, self.now, "start_timeout"))

    @rule(reason=st.sampled_from(["oom", "shutdown"]))
    def lose(self, reason: str) -> None:
        self.take(q.kernel_lost(self.queue, reason))
        assert self.queue.empty

    @invariant()
    def accounted(self) -> None:
        unfinished = {e.execution_id for e in self.queue.waiting}
        if self.queue.running:
            assert self.queue.running.state in (State.DISPATCHED, State.STARTED)
            unfinished.add(self.queue.running.execution_id)
        assert unfinished | set(self.ends) == set(self.accepted)
        assert not unfinished & set(self.ends)
        in_order = [name for name in self.order if name in self.dispatched]
        assert self.dispatched == in_order, "not first in, first out"
        if self.queue.kernel_ready and self.queue.waiting:
            assert self.queue.running, "a ready kernel idles while cells wait"

    def teardown(self) -> None:
        self.take(q.kernel_lost(self.queue, "shutdown"))
        assert set(self.ends) == set(self.accepted)


EveryExecutionEndsOnce.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEveryExecutionEndsOnce = EveryExecutionEndsOnce.TestCase
