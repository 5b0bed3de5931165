"""A room's executions: the queue's decisions carried out, and the sandbox's reports taken in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from cellyard_controller import faults
from cellyard_controller.clock import shown, steady
from cellyard_controller.errors import Refused
from cellyard_controller.executions import queue as q
from cellyard_controller.executions import records
from cellyard_controller.executions.calls import NOTHING, Offers
from cellyard_controller.executions.counts import Counts
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.live import LiveExecution
from cellyard_controller.executions.model import USUAL, End, Execution, Manner, Notice, Outcome, State
from cellyard_controller.executions.reports import (
    Asked,
    Called,
    Clear,
    CommSaid,
    Ended,
    Output,
    Report,
    Started,
    Truncated,
    Update,
    Warned,
)
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey, NotebookRef, SessionId, new_execution_id
from cellyard_controller.notebooks.calling import Calling
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.widgets import Widgets
from cellyard_controller.sandboxes import endings
from cellyard_controller.sandboxes.lifecycle import EndReason, KernelState
from cellyard_controller.sandboxes.sandbox import KernelSettings
from cellyard_controller.store import Store
from cellyard_controller.store.requests import Request
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tracing import ExecutionTrace, Traces
from cellyard_proto.codemode import names

_OVERDUE = 20.0
"""Seconds past its timeout at which a running cell's agent cannot be keeping time."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """An execution that a client asks for: of a new cell with this source, or of a cell that is there."""

    request: Request
    session_id: SessionId
    cell_id: CellId
    settings: KernelSettings
    new_source: str | None = None
    index: int | None = None
    timeout_s: float | None = None
    stop_on_error: bool = False
    coalesce: bool = False
    offers: Offers = NOTHING
    call: Any = None
    """The span of the call that it came with."""
    manner: Manner = USUAL


class Runner:
    """Executions of one room. Used by the room's task alone.

    What the queue decides is written with the next commit, and acts after it: `take` asks for no commit itself.
    """

    def __init__(
        self,
        notebook: NotebookKey,
        ref: NotebookRef,
        *,
        store: Store,
        journal: Journal,
        kernel: Kernel,
        ledger: Ledger,
        calling: Calling,
        widgets: Widgets,
        counts: Counts,
        allowances: Allowances,
        traces: Traces | None,
        on_accepted: Callable[[Execution], None],
        on_started: Callable[[CellId, ExecutionId], None],
    ) -> None:
        self.queue = q.Queue()
        self._notebook, self._ref, self._allowances = notebook, ref, allowances
        self._store, self._journal, self._kernel, self._ledger = store, journal, kernel, ledger
        self._calling, self._widgets, self._counts = calling, widgets, counts
        self._on_accepted, self._on_started = on_accepted, on_started
        self._traces = traces
        self._traced: dict[ExecutionId, ExecutionTrace] = {}
        """Of those that have not ended and were accepted by this controller."""
        self.died = ""
        """What the agent says of its kernel's end, where a report has brought it ahead of the kernel's own state."""

    # Accepting

    def waiting_like(self, order: Order, source: str) -> Execution | None:
        """The execution of this cell that the same session has waiting or running with the same source."""
        for entry in reversed(self._unfinished()):
            if entry.cell_id == order.cell_id and entry.session_id == order.session_id:
                live = self._journal.live(entry.execution_id)
                return live.snapshot() if live.execution.source == source else None
        return None

    def accept(self, order: Order, source: str, change: Change) -> LiveExecution:
        """Adds an execution to a change; it counts once that is committed, or is dropped. Raises QuotaExceeded."""
        now = time.time()
        execution = Execution(
            execution_id=new_execution_id(),
            cell_id=order.cell_id,
            session_id=order.session_id,
            source=source,
            state=State.QUEUED,
            accepted_at=now,
            start_deadline=steady() + order.settings.start_timeout_s,
            timeout_s=order.timeout_s,
            stop_on_error=order.stop_on_error,
            offers=order.offers,
            manner=order.manner,
        )
        queue, decisions = q.accept(self.queue, _entry(execution))
        # Where it goes out at once, it is stored as dispatched: one statement, not two.
        at_once = any(isinstance(decision, q.Dispatch) for decision in decisions)
        if not at_once:
            self._allowances.wait(self._ref, len(queue.waiting))
        stored = replace(execution, state=State.DISPATCHED) if at_once else execution
        change.rows.append(partial(records.add, notebook=self._notebook, execution=stored))
        change.done.append(partial(faults.point, "accept-committed"))
        change.done.append(partial(self._on_accepted, stored))
        change.done.append(partial(log.debug, "execution accepted", execution_id=execution.execution_id))
        change.done.append(partial(self._take_over, queue))
        if self._traces is not None:
            change.done.append(partial(self._trace, stored, order.call))
        if at_once:
            change.done.append(partial(self._send, execution.execution_id))
        change.done.append(self.tell_positions)
        return self._journal.add(execution)

    # What is known of its trace

    @property
    def first_traced(self) -> ExecutionTrace | None:
        """The trace of the execution that waits for longest, and that a sandbox is asked for."""
        first = self.queue.waiting[0].execution_id if self.queue.waiting else None
        return self._traced.get(first) if first is not None else None

    def leave(self) -> None:
        """The room ends, and what has not ended goes on without it."""
        self._allowances.waiting(self._ref, 0)
        for traced in self._traced.values():
            traced.left()
        self._traced.clear()

    def _trace(self, execution: Execution, call: Any) -> None:
        assert self._traces is not None
        self._traced[execution.execution_id] = self._traces.execution(self._ref, execution, call)

    # The queue

    def postpone(self, seconds: float) -> None:
        """What waits may wait so much longer."""
        self.queue = q.postponed(self.queue, seconds)

    def recover(self, unfinished: list[Execution]) -> None:
        """Takes the unfinished executions of the store over, after a restart."""
        for execution in unfinished:
            entry = _entry(execution)
            if execution.state is State.QUEUED:
                self.queue = replace(self.queue, waiting=(*self.queue.waiting, entry))
            else:
                self.queue = replace(self.queue, running=entry)
        self.count_waiting()

    def count_waiting(self) -> None:
        """Says how many wait: what counts for the tenant's quota."""
        self._allowances.waiting(self._ref, len(self.queue.waiting))

    def take(self, step: q.Step, message: str = "", report: Ended | None = None) -> None:
        """Takes a step of the queue over."""
        queue, decisions = step
        self._take_over(queue)
        for decision in decisions:
            if isinstance(decision, q.Dispatch):
                self._dispatch(decision, self._ledger.kept)
            elif isinstance(decision, q.SendInterrupt):
                name = decision.execution_id
                wanted = partial(records.set_end_wanted, execution_id=name, why=q.INTERRUPT)
                self._ledger.kept.rows.append(wanted)
                self._ledger.kept.done.append(partial(faults.point, "interrupt-committed"))
                self._ledger.kept.done.append(partial(self.send_interrupt, name))
            else:
                of_report = report if decision is decisions[0] else None
                live = self._journal.live(decision.execution_id)
                said = _limit_of(live.execution, decision) or message
                live.finish(decision.end, decision.reason, said, of_report)
                self._counts.ended(live.execution, self._ref.tenant)
                self._log_end(live.execution)
                traced = self._traced.pop(decision.execution_id, None)
                if traced is not None:
                    traced.ended(live.execution, of_report)
        self.tell_positions()

    def lose_kernel(self, reason: EndReason, message: str) -> None:
        """The kernel is gone: what ran is lost, what waited for it is cancelled."""
        self.take(q.kernel_lost(self.queue, reason), message)

    def send_again(self, held: frozenset[ExecutionId]) -> None:
        """After a reconnection: what the agent never got, and the interrupt that it may have missed."""
        running = self.queue.running
        if running is None:
            return
        if running.execution_id not in held:
            self._send(running.execution_id)
        if running.interrupting:
            self.send_interrupt(running.execution_id)

    def send_interrupt(self, execution_id: ExecutionId, restart_after_s: float = 0.0) -> None:
        """Tells the agent to interrupt."""
        if self._kernel.sandbox is not None:
            self._kernel.sandbox.link.interrupt(execution_id, restart_after_s)

    def tell_positions(self) -> None:
        """Tells those who watch waiting executions how many are ahead."""
        for ahead, entry in enumerate(self.queue.waiting, start=int(self.queue.running is not None)):
            if ahead:
                self._journal.live(entry.execution_id).log.tell(Notice("queued", {"ahead": ahead}))

    def tell_wait(self, reason: str, position: int, eta_s: float | None) -> None:
        """Tells those who watch waiting executions why no kernel can be had yet, and how many are ahead."""
        for entry in self.queue.waiting:
            body = {"reason": reason, "position": position, "eta_s": eta_s}
            self._journal.live(entry.execution_id).log.tell(Notice("waiting", body))

    def warn_first(self, warning: Warned) -> None:
        """Tells whoever runs the first of the waiting cells something."""
        if self.queue.waiting:
            self._journal.live(self.queue.waiting[0].execution_id).warned(warning)

    def tell_progress(self, stage: str, message: str) -> None:
        """Tells those who watch waiting executions how far their kernel is."""
        for entry in self.queue.waiting:
            body = {"stage": stage, "message": message}
            self._journal.live(entry.execution_id).log.tell(Notice("progress", body))

    def warn(self, warning: Warned) -> None:
        """Tells whoever runs the running cell something; without one there is nobody to tell."""
        if self.queue.running is not None:
            self._journal.live(self.queue.running.execution_id).warned(warning)

    def overdue(self) -> float | None:
        """When the running cell's timeout has passed so long ago that its agent cannot be keeping time."""
        running = self.queue.running
        if running is None:
            return None
        live = self._journal.live(running.execution_id)
        timeout = live.execution.timeout_s
        return None if timeout is None or not live.running_since else live.running_since + timeout + _OVERDUE

    # Reports

    async def reports(self, reports: list[Report]) -> bool:
        """Takes reports in, those of a resend once; True where somebody waits for what they say.

        Raises ValueError where one is missing: then the link is closed, and an agent that has it says it again.
        """
        urgent = False
        for report in reports:
            if report.number <= self._kernel.received:
                continue
            if report.number != self._kernel.received + 1:
                raise ValueError(f"report {report.number} comes after report {self._kernel.received}")
            self._kernel.received = report.number
            urgent = await self._report(report) or urgent
        return urgent

    async def _report(self, report: Report) -> bool:
        what = report.what
        if isinstance(what, Ended):
            step = q.ended(
                self.queue, report.execution_id, what.outcome, what.interrupted_by, endings.reason_of(what.reason)
            )
            self._kernel.last_used = steady()
            if what.outcome is Outcome.KERNEL_GONE and what.reason != EndReason.KERNEL_RESTARTED:
                self.died = what.reason
            self.take(step, self._sentence(what), what)
            faults.point("end-reported")
            return bool(step[1])
        if isinstance(what, Update):
            await self._update_displays(report, what)
            return False
        if isinstance(what, CommSaid):
            await self._widgets.said(what, self._journal.find(report.execution_id))
            return False
        live = await self._subject(report.execution_id)
        if isinstance(what, Called | Asked):
            self._calling.called(live, what)
            return True
        if live is None:
            return False
        if isinstance(what, Warned):
            live.warned(what)
            return False
        if isinstance(what, Started):
            queue, _ = q.started(self.queue, report.execution_id)
            if queue is not self.queue:
                self._take_over(queue)
                faults.point("start-reported")
                live.started(what)
                if report.execution_id in self._traced:
                    self._traced[report.execution_id].started()
                self._on_started(live.execution.cell_id, report.execution_id)
        elif isinstance(what, Output | Clear | Truncated):
            if isinstance(what, Truncated):
                self._counts.truncated()
            live.output(what, report.size)
        return False

    async def _subject(self, execution_id: ExecutionId) -> LiveExecution | None:
        """The execution that a report is about; none for one that was never sent."""
        if any(entry.execution_id == execution_id for entry in self.queue.waiting):
            return None
        try:
            return await self._journal.open(execution_id)
        except Refused:
            return None

    async def _update_displays(self, report: Report, what: Update) -> None:
        """A display may belong to any cell: the update goes to every execution that shows it."""
        stored = await self._store.read(
            partial(records.displaying, notebook=self._notebook, display_id=what.display_id)
        )
        for execution_id in {*stored, report.execution_id}:
            live = await self._subject(execution_id)
            if live is not None:
                live.update_display(what, report.size)

    # Inside

    def _log_end(self, execution: Execution) -> None:
        assert execution.end is not None
        # Those that ended as they should are for who looks closely.
        write = log.info if execution.end in (End.LOST, End.TIMED_OUT) else log.debug
        name, end, reason = execution.execution_id, execution.end.value, execution.end_reason
        write("execution ended", execution_id=name, end=end, reason=reason[:64])

    def _sentence(self, ended: Ended) -> str:
        if ended.reason == EndReason.KERNEL_RESTARTED:
            return "the cell ignored its interrupt and the kernel was restarted"
        sandbox = self._kernel.sandbox
        return endings.kernel_died(ended.reason, sandbox.template if sandbox else None) if ended.reason else ""

    def _unfinished(self) -> list[q.Entry]:
        running = [self.queue.running] if self.queue.running else []
        return [*running, *self.queue.waiting]

    def _take_over(self, queue: q.Queue) -> None:
        self.queue = queue
        self.count_waiting()
        if self._kernel.takes_cells:
            self._kernel.move(KernelState.BUSY if queue.running else KernelState.IDLE)

    def _dispatch(self, decision: q.Dispatch, change: Change) -> None:
        name = decision.execution_id
        change.rows.append(partial(records.set_dispatched, execution_id=name))
        change.done.append(partial(self._send, name))

    def _send(self, execution_id: ExecutionId) -> None:
        sandbox = self._kernel.sandbox
        if sandbox is not None:
            execution = self._journal.live(execution_id).execution
            traced = self._traced.get(execution_id)
            sandbox.link.dispatch(
                execution_id,
                execution.source,
                execution.timeout_s,
                execution.cell_id,
                allow_stdin=execution.offers.input,
                namespaces=not names.FUNCTIONS.isdisjoint(execution.offers.functions),
                traceparent=traced.sent() if traced is not None else "",
                manner=execution.manner,
            )
            faults.point("sent")


def _entry(execution: Execution) -> q.Entry:
    return q.Entry(
        execution_id=execution.execution_id,
        cell_id=execution.cell_id,
        session_id=execution.session_id,
        start_deadline=execution.start_deadline,
        stop_on_error=execution.stop_on_error,
        state=execution.state,
        interrupting=bool(execution.end_wanted),
    )


def _limit_of(execution: Execution, decision: q.Finish) -> str:
    """The limit that an execution has reached, where that is its end."""
    if decision.end is End.TIMED_OUT:
        restarted = decision.reason == EndReason.KERNEL_RESTARTED
        return endings.timed_out(execution.timeout_s, restarted=restarted)
    if decision.reason == "start_timeout":
        return endings.not_started(round(shown(execution.start_deadline) - execution.accepted_at, 2))
    return ""
