"""Executions in the agent: one runs at a time, each has exactly one end, and none runs twice.

The agent keeps time and interrupts by itself, since the controller may be away. An interrupt is repeated
until the kernel is idle: one that comes too early is lost.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cellyard_proto.v1 import link_pb2, manner_pb2, outputs_pb2
from cellyard_sandbox.calls import Running
from cellyard_sandbox.kernel_host import KernelHost, RunEnd, Usage
from cellyard_sandbox.limits import Budget, OutputLimits
from cellyard_sandbox.messages import Chunk, Item, comm
from cellyard_sandbox.outbox import Outbox

INTERRUPT_AGAIN_S = 0.25
IGNORED_TIMEOUT_S = 5.0
"""A cell that ignores its timeout this long has its kernel restarted."""

_REMEMBERED = 20_000  # ended executions whose id is still refused; the controller never asks for these again
_LATE_OUTPUT = 1_000  # executions, the last ones, whose later output is theirs
_EARLY_INTERRUPTS = 100  # interrupts for executions that have not come yet


class Timer(Protocol):
    """A call that waits."""

    def cancel(self) -> None:
        """It will not happen."""


class Clock(Protocol):
    """The event loop, as far as it is needed here."""

    def time(self) -> float:
        """Seconds, from any start."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Calls back after this many seconds."""


@dataclass(slots=True)
class _Execution:
    execution_id: str
    source: str
    timeout_s: float
    allow_stdin: bool
    namespaces: bool
    manner: manner_pb2.Manner
    budget: Budget
    traceparent: str
    came_at: float
    sent_at: float = 0.0
    started: bool = False
    interrupted_by: str = ""
    timers: dict[str, Timer] = field(default_factory=dict)


class Executions:
    """Owns what was dispatched. A listener of the kernel's host, apart from the kernel's death."""

    def __init__(
        self, clock: Clock, host: Callable[[], KernelHost], outbox: Outbox, on_stuck: Callable[[], None]
    ) -> None:
        """`on_stuck` is called where a cell ignores its end so long that the kernel must be restarted."""
        self._clock = clock
        self._host = host
        self._outbox = outbox
        self._on_stuck = on_stuck
        self.limits = OutputLimits()
        """Of executions that are dispatched from now on."""
        self.restart_after_s = 0.0
        """Where it is positive, every interrupt that is ignored this long restarts the kernel."""
        self._running: _Execution | None = None
        self._waiting: deque[_Execution] = deque()
        self._gone: str | None = None  # why there is no kernel any more
        self._ready = False
        self._held: dict[str, int] = {}  # id -> number of its end, 0 before
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._budgets: OrderedDict[str, Budget] = OrderedDict()
        self._interrupts: OrderedDict[str, float] = OrderedDict()

    @property
    def held(self) -> list[str]:
        """Executions whose end is not acknowledged, in the order in which they came."""
        return list(self._held)

    @property
    def interrupting(self) -> bool:
        """The running execution is being interrupted: the kernel must not be stopped now."""
        return self._running is not None and self._running.interrupted_by != ""

    @property
    def running(self) -> Running | None:
        """The execution that the kernel has."""
        running = self._running
        return Running(running.execution_id, running.started) if running is not None else None

    def acknowledged(self, number: int) -> None:
        """Events up to this number are committed."""
        done = [id_ for id_, end in self._held.items() if 0 < end <= number]
        for execution_id in done:
            del self._held[execution_id]
            self._ended[execution_id] = None
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    # What the controller asks for

    def dispatch(self, order: link_pb2.Dispatch) -> None:
        """Runs a source as soon as the kernel is free. An id that was given before changes nothing."""
        execution_id = order.execution_id
        if execution_id in self._held or execution_id in self._ended:
            return
        self._held[execution_id] = 0
        budget = Budget(self.limits)
        execution = _Execution(
            execution_id,
            order.source,
            order.timeout_s,
            order.allow_stdin,
            order.namespaces,
            order.manner,
            budget,
            order.traceparent,
            came_at=self._clock.time(),
        )
        if self._gone is not None:
            self._end(execution, _gone(self._gone))
            return
        self._waiting.append(execution)
        self._next()

    def interrupt(self, execution_id: str, restart_after_s: float) -> None:
        """Interrupts an execution now, or once it has started; one that has ended is left alone."""
        running = self._running
        if running is not None and running.execution_id == execution_id and running.started:
            self._interrupt(running, "interrupt", restart_after_s)
        elif self._held.get(execution_id, 0) == 0 and execution_id not in self._ended:
            self._interrupts[execution_id] = restart_after_s
            if running is not None and running.execution_id == execution_id:
                # The kernel has it and may be stuck in what an earlier cell has left there.
                self._restart_later(running, "interrupt", restart_after_s)
            while len(self._interrupts) > _EARLY_INTERRUPTS:
                self._interrupts.popitem(last=False)

    # What becomes of the kernel

    def kernel_ready(self) -> None:
        """A kernel is there, with nothing running."""
        self._ready = True
        self._gone = None
        self._next()

    def kernel_gone(self, reason: str, *, for_good: bool) -> None:
        """The kernel has ended, and with it what runs or waits. What comes later waits, if not for good."""
        usage = self._host().usage() if self._running is not None else None
        running, waiting = self._running, self._waiting
        self._ready = False
        self._gone = reason if for_good else None
        self._running, self._waiting = None, deque()
        if running is not None:
            self._end(running, _gone(reason), usage)
        for execution in waiting:
            self._end(execution, _gone(reason))
        self._budgets.clear()

    # What the kernel's host tells (HostListener)

    def run_started(self, run_id: str, execution_count: int) -> None:
        """See HostListener."""
        running = self._running
        if running is None or running.execution_id != run_id or running.started:
            return
        running.started = True
        started = link_pb2.Event(started=link_pb2.ExecutionStarted(execution_count=execution_count))
        self._outbox.stage(run_id, started, started.ByteSize())
        if running.timeout_s > 0:
            running.timers["timeout"] = self._clock.call_later(
                running.timeout_s, lambda: self._interrupt(running, "timeout", IGNORED_TIMEOUT_S)
            )
        restart_after_s = self._interrupts.pop(run_id, None)
        if restart_after_s is not None:
            self._interrupt(running, "interrupt", restart_after_s)

    def run_shown(self, run_id: str, item: Item) -> None:
        """See HostListener."""
        budget = self._budgets.get(run_id)
        if budget is None:
            # Nobody's, or of an execution long ago: it stands with the one that runs, or nowhere.
            if self._running is None:
                return
            run_id, budget = self._running.execution_id, self._running.budget
        for admitted in budget.admit(item):
            self._show(run_id, admitted)

    def comm_sent(self, run_id: str, message: outputs_pb2.Comm) -> bool:
        """Shows a comm's message; False where it is of no execution, or of one long ago."""
        if run_id not in self._budgets:
            return False
        self.run_shown(run_id, comm(message))
        return True

    def run_unread(self, run_id: str) -> bool:
        """See HostListener."""
        budget = self._budgets.get(run_id)
        return budget is not None and budget.saturated

    def run_ended(self, run_id: str, end: RunEnd) -> None:
        """See HostListener."""
        running = self._running
        if running is None or running.execution_id != run_id:
            return
        self._running = None
        outcome = link_pb2.OUTCOME_OK if end.ok else link_pb2.OUTCOME_ERROR
        ended = link_pb2.ExecutionEnded(
            outcome=outcome, execution_count=end.execution_count, value=end.value, reply_json=end.reply_json
        )
        self._end(running, ended, self._host().usage())
        self._next()

    # The way of an execution

    def _next(self) -> None:
        if not self._ready or self._running is not None or not self._waiting:
            return
        execution = self._running = self._waiting.popleft()
        self._budgets[execution.execution_id] = execution.budget
        while len(self._budgets) > _LATE_OUTPUT:
            self._budgets.popitem(last=False)
        source, execution.source = execution.source, ""
        execution.sent_at = self._clock.time()
        self._host().run(
            execution.execution_id,
            source,
            allow_stdin=execution.allow_stdin,
            namespaces=execution.namespaces,
            manner=execution.manner,
        )

    def _interrupt(self, execution: _Execution, why: str, restart_after_s: float) -> None:
        if not execution.interrupted_by:
            execution.interrupted_by = why
            self._interrupt_again(execution)
        self._restart_later(execution, why, restart_after_s)

    def _restart_later(self, execution: _Execution, why: str, restart_after_s: float) -> None:
        if self.restart_after_s > 0:
            restart_after_s = min(restart_after_s or self.restart_after_s, self.restart_after_s)
        if restart_after_s > 0:
            timer = self._clock.call_later(restart_after_s, lambda: self._stuck(execution, restart_after_s))
            earlier = execution.timers.pop(f"restart {why}", None)
            if earlier is not None:
                earlier.cancel()
            execution.timers[f"restart {why}"] = timer

    def _interrupt_again(self, execution: _Execution) -> None:
        execution.timers["interrupt"] = self._clock.call_later(
            INTERRUPT_AGAIN_S, lambda: self._interrupt_again(execution)
        )
        self._host().interrupt(execution.execution_id)

    def _stuck(self, execution: _Execution, ignored_s: float) -> None:
        line = f"[cellyard: the cell ignored its interrupt for {ignored_s:g} s; the kernel was restarted]\n"
        self._show(execution.execution_id, Chunk("stderr", line))
        self._on_stuck()

    def _show(self, execution_id: str, item: Item) -> None:
        if isinstance(item, Chunk):
            self._outbox.stage_text(execution_id, item.name, item.text)
        else:
            self._outbox.stage(execution_id, item.event, item.size)

    def _end(self, execution: _Execution, ended: link_pb2.ExecutionEnded, usage: Usage | None = None) -> None:
        for timer in execution.timers.values():
            timer.cancel()
        execution.timers.clear()
        self._interrupts.pop(execution.execution_id, None)
        for item in execution.budget.close():
            self._show(execution.execution_id, item)
        ended.interrupted_by = execution.interrupted_by
        if execution.traceparent:
            ended.traceparent = execution.traceparent
            ended.waited_s = max(0.0, execution.sent_at - execution.came_at)
        if execution.started:
            ended.wall_s = self._clock.time() - execution.sent_at
        if usage is not None:
            ended.cpu_s, ended.peak_memory_bytes = usage.cpu_s, usage.peak_memory_bytes
        event = link_pb2.Event(ended=ended)
        self._outbox.stage(execution.execution_id, event, event.ByteSize())
        self._held[execution.execution_id] = self._outbox.seal()


def _gone(reason: str) -> link_pb2.ExecutionEnded:
    return link_pb2.ExecutionEnded(outcome=link_pb2.OUTCOME_KERNEL_GONE, reason=reason)
