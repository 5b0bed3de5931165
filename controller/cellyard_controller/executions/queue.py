"""A notebook's queue as a pure state machine: an event in, a new state and decisions out.

The rules are those of the SDK's documentation:
- first in, first out; one execution runs at a time; nothing is sent before the kernel is ready;
- every execution reaches exactly one end;
- an error cancels only what the same session put behind it with stop_on_error;
- an interrupt ends the running execution and cancels what the same session had queued then, nothing that came later;
- nothing queued for one kernel ever runs in another: when a kernel is lost, what ran is `lost` and what waited for
  it is `cancelled`, both with the reason.

The room commits the decisions, then takes the new state over, then acts. Nothing here waits, sends or stores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cellyard_controller.executions.model import End, Outcome, State
from cellyard_controller.ids import CellId, ExecutionId, SessionId

INTERRUPT, TIMEOUT = "interrupt", "timeout"
TAKE_UP = 5.0
"""Seconds that a kernel has at least to take up what it was sent, even at the last moment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the queue needs to know of an unfinished execution."""

    execution_id: ExecutionId
    cell_id: CellId
    session_id: SessionId
    start_deadline: float
    """By the steady clock; still waiting then, it is cancelled."""
    stop_on_error: bool = False
    state: State = State.QUEUED
    interrupting: bool = False
    """Its end is wanted: an interrupt was decided and is delivered until it ends."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Unfinished executions of a notebook. `kernel_ready`: an idle or busy kernel takes dispatches."""

    running: Entry | None = None
    waiting: tuple[Entry, ...] = ()
    kernel_ready: bool = False

    def position(self, execution_id: ExecutionId) -> int | None:
        """How many executions are ahead of a waiting one; None where it does not wait."""
        for ahead, entry in enumerate(self.waiting):
            if entry.execution_id == execution_id:
                return ahead + (self.running is not None)
        return None

    @property
    def empty(self) -> bool:
        """Whether no execution is unfinished."""
        return self.running is None and not self.waiting

    def find(self, execution_id: ExecutionId) -> Entry | None:
        """The unfinished execution of this id."""
        unfinished = (self.running, *self.waiting) if self.running else self.waiting
        return next((entry for entry in unfinished if entry.execution_id == execution_id), None)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Commit that it is dispatched, then send it to the kernel."""

    execution_id: ExecutionId


@dataclass(frozen=True, slots=True)
class Finish:
    """Commit this end."""

    execution_id: ExecutionId
    end: End
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SendInterrupt:
    """Commit that its end is wanted, then tell the agent."""

    execution_id: ExecutionId


Decision = Dispatch | Finish | SendInterrupt
Step = tuple[Queue, list[Decision]]
_Which = Callable[[Entry], bool]


def accept(queue: Queue, entry: Entry) -> Step:
    """An execution was asked for."""
    return _advance(replace(queue, waiting=(*queue.waiting, entry)), [])


def kernel_ready(queue: Queue) -> Step:
    """A kernel is there and takes cells."""
    return _advance(replace(queue, kernel_ready=True), [])


def started(queue: Queue, execution_id: ExecutionId) -> Step:
    """The kernel has taken it up."""
    running = queue.running
    if running is None or running.execution_id != execution_id or running.state is not State.DISPATCHED:
        return queue, []
    return replace(queue, running=replace(running, state=State.STARTED)), []


def ended(
    queue: Queue, execution_id: ExecutionId, outcome: Outcome, interrupted_by: str = "", reason: str = ""
) -> Step:
    """The sandbox says that it ended. Reports about anything but the running execution are ignored."""
    running = queue.running
    if running is None or running.execution_id != execution_id:
        return queue, []
    end = _end_of(outcome, interrupted_by)
    finish: list[Decision] = [Finish(execution_id, end, reason)]
    rest = replace(queue, running=None)
    if outcome is Outcome.KERNEL_GONE:
        return _cancel(replace(rest, kernel_ready=False), finish, lambda entry: True, reason)
    if end in (End.FAILED, End.TIMED_OUT):
        rest, finish = _cancel(
            rest,
            finish,
            lambda entry: entry.stop_on_error and entry.session_id == running.session_id,
            "earlier_error",
        )
    return _advance(rest, finish)


def interrupt(queue: Queue, session_id: SessionId) -> Step:
    """A session interrupts: the running execution, and what this session has waiting now."""
    decisions: list[Decision] = []
    queue, decisions = _interrupt_running(queue, decisions)
    return _cancel(queue, decisions, lambda entry: bool(session_id) and entry.session_id == session_id, "interrupt")


def cancel(queue: Queue, execution_id: ExecutionId) -> Step:
    """One execution is to end, whoever asked for it."""
    if queue.running is not None and queue.running.execution_id == execution_id:
        return _interrupt_running(queue, [])
    return _cancel(queue, [], lambda entry: entry.execution_id == execution_id, "cancelled")


def cell_deleted(queue: Queue, cell_id: CellId) -> Step:
    """A cell is gone: its waiting executions are cancelled, a running one goes on."""
    return _cancel(queue, [], lambda entry: entry.cell_id == cell_id, "cell_deleted")


def time_passed(queue: Queue, now: float, reason: str) -> Step:
    """What waits past its start deadline is cancelled, for this reason."""
    return _cancel(queue, [], lambda entry: entry.start_deadline <= now, reason)


def postponed(queue: Queue, seconds: float) -> Queue:
    """What waits may wait so much longer: that it waited for something that does not count."""
    later = (replace(entry, start_deadline=entry.start_deadline + seconds) for entry in queue.waiting)
    return replace(queue, waiting=tuple(later))


def not_taken_up(queue: Queue) -> Step:
    """The kernel has not taken up what it was sent in time. It could still run it, so it must be replaced."""
    if queue.running is None or queue.running.state is not State.DISPATCHED:
        return queue, []
    finish = Finish(queue.running.execution_id, End.CANCELLED, "start_timeout")
    return replace(queue, running=None, kernel_ready=False), [finish]


def kernel_lost(queue: Queue, reason: str) -> Step:
    """The kernel, its start or its sandbox is gone. Nobody can say how far the running execution came."""
    decisions: list[Decision] = []
    if queue.running is not None:
        decisions.append(Finish(queue.running.execution_id, End.LOST, reason))
    return _cancel(replace(queue, running=None, kernel_ready=False), decisions, lambda entry: True, reason)


def next_deadline(queue: Queue) -> float | None:
    """When `time_passed` has something to do at the earliest."""
    return min((entry.start_deadline for entry in queue.waiting), default=None)


def take_up_deadline(queue: Queue) -> float | None:
    """When the kernel must have taken up what it was sent: nothing is sent past its start deadline."""
    running = queue.running
    return running.start_deadline + TAKE_UP if running is not None and running.state is State.DISPATCHED else None


def _end_of(outcome: Outcome, interrupted_by: str) -> End:
    if interrupted_by == TIMEOUT:
        return End.TIMED_OUT
    if outcome is Outcome.OK:
        return End.SUCCEEDED
    if interrupted_by == INTERRUPT:
        return End.INTERRUPTED
    return End.LOST if outcome is Outcome.KERNEL_GONE else End.FAILED


def _advance(queue: Queue, decisions: list[Decision]) -> Step:
    if not queue.kernel_ready or queue.running is not None or not queue.waiting:
        return queue, decisions
    first, *rest = queue.waiting
    queue = replace(queue, running=replace(first, state=State.DISPATCHED), waiting=tuple(rest))
    return queue, [*decisions, Dispatch(first.execution_id)]


def _interrupt_running(queue: Queue, decisions: list[Decision]) -> Step:
    if queue.running is None or queue.running.interrupting:
        return queue, decisions
    running = replace(queue.running, interrupting=True)
    return replace(queue, running=running), [*decisions, SendInterrupt(running.execution_id)]


def _cancel(queue: Queue, decisions: list[Decision], which: _Which, reason: str) -> Step:
    gone = [entry for entry in queue.waiting if which(entry)]
    if not gone:
        return queue, decisions
    kept = tuple(entry for entry in queue.waiting if not which(entry))
    ends = [Finish(entry.execution_id, End.CANCELLED, reason) for entry in gone]
    return replace(queue, waiting=kept), [*decisions, *ends]
