"""A room's calls: from the running code to the client that started it, and the answers back.

The controller says which execution a call belongs to: the one that runs. Where nobody runs, nothing is offered or the
client is gone, the code is told so at once; what the controller keeps for its tenant it serves itself where the client
does not. An answer is committed before the code gets it, and the first one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from cellyard_controller.clock import steady
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.executions.calls import Answer, unavailable
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.live import LiveExecution
from cellyard_controller.executions.reports import Asked, Called
from cellyard_controller.ids import ExecutionId, SessionId
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.notebooks.ledger import Ledger
from cellyard_controller.notebooks.serving import Serving

_GONE = "the client that started this cell is gone"


class Calling:
    """Calls of one room's code. Used by the room's task alone."""

    def __init__(
        self,
        *,
        journal: Journal,
        kernel: Kernel,
        ledger: Ledger,
        serving: Serving,
        grace_s: float,
        running: Callable[[], ExecutionId | None],
    ) -> None:
        """`grace_s`: a client that reads its execution's stream no more is gone after this time."""
        self._journal, self._kernel, self._ledger, self._serving = journal, kernel, ledger, serving
        self._grace, self._running = grace_s, running

    def called(self, live: LiveExecution | None, report: Called | Asked) -> None:
        """The code calls: its client hears of it with the next commit, or the code that nobody does."""
        name = report.name if isinstance(report, Called) else None
        if live is None or live.execution.execution_id != self._running():
            why = "no cell runs that this call could belong to"
        elif report.call_id in live.calls.open or report.call_id in live.calls.ended:
            return  # told again after a reconnection
        elif not (why := live.calls.refusal(name)):
            if live.calls.serves(name):
                live.called(report)
                # What it is to do is on disk first: a successor knows of it.
                self._ledger.kept.done.append(partial(self._serve, live, report.call_id))
                return
            if not self._gone(live):
                live.called(report)
                return
            why = _GONE
        # Nothing of it is kept: where the answer is lost with this process, `resend` makes up for it.
        self._ledger.kept.done.append(partial(self._send, report.call_id, unavailable(why)))

    async def answer(self, execution_id: ExecutionId, call_id: str, request_id: str, answer: Answer) -> bool:
        """A client answers; False where the call had its end before.

        Raises ExecutionNotFound; InvalidRequest for a call that was never made.
        """
        live = await self._journal.open(execution_id)
        if call_id in live.calls.ended:
            repeated = bool(request_id) and live.calls.ended[call_id] == request_id
            if repeated and await self._journal.answer_to(execution_id, call_id) not in (answer, None):
                raise InvalidRequest(f"request id {request_id!r} was used with other content", request_id=request_id)
            return repeated
        if call_id in live.calls.served:
            return False  # nobody asked
        if call_id not in live.calls.open:
            if live.execution.end is not None:
                return False
            raise InvalidRequest(f"call {call_id!r} not found in execution {execution_id!r}", call_id=call_id)
        self._answer(live, call_id, answer, request_id)
        self._kernel.last_used = steady()
        await self._ledger.commit()
        return True

    def recover(self) -> None:
        """After the controller's start: what was being served is served again."""
        live = self._live()
        if live is not None:
            for call_id in list(live.calls.served):
                self._serve(live, call_id)

    def end_served(self) -> None:
        """Lets go of what is served for calls that have had their end."""
        if self._serving.busy:
            live = self._live()
            self._serving.keep_only(self._running(), live.calls.served if live is not None else ())

    async def attach(self, execution_id: ExecutionId) -> None:
        """The client that started an execution reads its stream."""
        (await self._journal.open(execution_id)).calls.attached()

    async def detach(self, execution_id: ExecutionId) -> None:
        """It reads it no more."""
        live = self._journal.find(execution_id)
        if live is not None:
            live.calls.detached()

    def left(self, session_id: SessionId) -> None:
        """A session has closed: nobody of it answers any more."""
        for live in self._journal.of_session(session_id):
            live.calls.left()
        self.time_passed()

    async def resend(self, open_calls: Iterable[tuple[ExecutionId, str]]) -> None:
        """After a reconnection, when all reports from before it are in: the code waits for these answers."""
        for execution_id, call_id in open_calls:
            live = self._journal.find(execution_id)
            if live is None or call_id not in live.calls.open:
                answer = await self._journal.answer_to(execution_id, call_id) if live is not None else None
                self._send(call_id, answer or unavailable(_GONE))

    def deadline(self) -> float | None:
        """When `time_passed` has something to do at the earliest."""
        live = self._live()
        return live.calls.gone_at(self._grace) if live is not None and live.calls.asked_of_client else None

    def time_passed(self) -> None:
        """Ends the calls of a client that is gone."""
        live = self._live()
        if live is not None and self._gone(live):
            for call_id in live.calls.asked_of_client:
                self._answer(live, call_id, unavailable(_GONE))

    # Inside

    def _live(self) -> LiveExecution | None:
        running = self._running()
        return None if running is None else self._journal.find(running)

    def _gone(self, live: LiveExecution) -> bool:
        gone_at = live.calls.gone_at(self._grace)
        return gone_at is not None and gone_at <= steady()

    def _serve(self, live: LiveExecution, call_id: str) -> None:
        body = live.calls.served.get(call_id)
        if body is not None:
            execution_id = live.execution.execution_id
            self._serving.begin(execution_id, call_id, body, partial(self._served, live, call_id))

    async def _served(self, live: LiveExecution, call_id: str, answer: Answer) -> None:
        if call_id in live.calls.served:
            self._answer(live, call_id, answer)
            self._kernel.last_used = steady()
            await self._ledger.flush()

    def _answer(self, live: LiveExecution, call_id: str, answer: Answer, request_id: str = "") -> None:
        live.answer(call_id, answer, request_id)
        self._ledger.kept.done.append(partial(self._send, call_id, answer))

    def _send(self, call_id: str, answer: Answer) -> None:
        if self._kernel.sandbox is not None:
            self._kernel.sandbox.link.answer(call_id, answer)
