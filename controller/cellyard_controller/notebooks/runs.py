"""A room's executions for everybody: accepted, followed, answered, looked up and cancelled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

from cellyard_controller import faults
from cellyard_controller.clock import steady
from cellyard_controller.executions import queue as q
from cellyard_controller.executions import records
from cellyard_controller.executions.calls import Answer
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.model import Event, Execution, Notice
from cellyard_controller.ids import CellId, ExecutionId, SessionId
from cellyard_controller.notebooks.calling import Calling
from cellyard_controller.notebooks.inbox import Inbox
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.pages import Pages
from cellyard_controller.notebooks.presence import Presence
from cellyard_controller.notebooks.runner import Order, Runner
from cellyard_controller.notebooks.seating import Seating
from cellyard_controller.store import Store
from cellyard_controller.store.requests import Request


class Runs:
    """The executions of one room. Its coroutines may be called from any task."""

    def __init__(
        self,
        pages: Pages,
        *,
        store: Store,
        journal: Journal,
        runner: Runner,
        seating: Seating,
        calling: Calling,
        kernel: Kernel,
        presence: Presence,
        ledger: Ledger,
        inbox: Inbox,
    ) -> None:
        self._pages, self._store, self._journal, self._runner = pages, store, journal, runner
        self._seating, self._calling, self._kernel, self._presence = seating, calling, kernel, presence
        self._ledger, self._inbox = ledger, inbox

    async def execute(self, order: Order) -> Execution:
        """Accepts an execution: when this returns, it is on disk."""
        return await self._inbox.ask(partial(self._accept, order))

    async def follow(
        self, execution_id: ExecutionId, after_seq: int, session_id: SessionId
    ) -> AsyncGenerator[Event | Notice]:
        """An execution's events as they are committed; ends after its `finished`. Raises ExecutionNotFound.

        While the session that started it follows, the execution's calls have somebody to answer them.
        """
        live = await self._inbox.ask(partial(self._journal.open, execution_id))
        answers = bool(live.execution.offers) and live.execution.session_id == session_id
        if answers:
            await self._inbox.ask(partial(self._calling.attach, execution_id))
        try:
            async for item in live.log.follow(after_seq):
                yield item
        finally:
            if answers:
                self._inbox.post(partial(self._calling.detach, execution_id))

    async def answer(self, execution_id: ExecutionId, call_id: str, request_id: str, answer: Answer) -> bool:
        """A client answers a call of the code; False where the call had its end before."""
        return await self._inbox.ask(partial(self._calling.answer, execution_id, call_id, request_id, answer))

    async def get(self, execution_id: ExecutionId) -> Execution:
        """One execution with its outputs so far."""

        async def work() -> Execution:
            return (await self._journal.open(execution_id)).snapshot()

        return await self._inbox.ask(work)

    async def recent(self, limit: int, before: ExecutionId | None) -> list[Execution]:
        """Executions, newest first, without outputs."""
        find = partial(records.recent, notebook=self._pages.notebook, limit=limit, before=before)
        return await self._store.read(find)

    async def cancel(self, request: Request, execution_id: ExecutionId) -> Execution:
        """Ends one execution: a waiting one is cancelled, a running one interrupted, an ended one left alone."""

        async def work() -> Execution:
            live = await self._journal.open(execution_id)
            if await self._ledger.answered(request) is None:
                self._runner.take(q.cancel(self._runner.queue, execution_id))
                await self._ledger.commit_done(request)
            return live.snapshot()

        return await self._inbox.ask(work)

    # In the room's task

    async def _accept(self, order: Order) -> Execution:
        if order.new_source is not None and order.manner.silent:
            order = replace(order, cell_id=CellId(""))

        async def attempt() -> Execution:
            if order.coalesce:
                source = await self._pages.code_of(order.cell_id)
                if (same := self._runner.waiting_like(order, source)) is not None:
                    return same
            change = Change()
            await self._pages.keep(len(order.new_source or ""))
            await self._seating.choose(order.settings, change)
            try:
                if order.new_source is None:
                    source = await self._pages.code_of(order.cell_id)
                elif order.manner.silent:
                    source = order.new_source
                else:
                    source = order.new_source
                    await self._pages.add_code(order.cell_id, source, order.index)
                    self._pages.store(change)
                live = self._runner.accept(order, source, change)
                self._ledger.remember(order.request, live.execution.execution_id, change)
                faults.point("accept-decided")
                try:
                    await self._ledger.commit(change)
                except BaseException:
                    self._journal.drop(live.execution.execution_id)
                    self._runner.count_waiting()
                    raise
            except BaseException as failed:
                if order.new_source is not None and not order.manner.silent:
                    await self._pages.take_back(failed)
                raise
            self._presence.used(order.session_id)
            self._kernel.last_used = steady()
            self._seating.start_if_wanted()
            return live.snapshot()

        async def again(answer: str) -> Execution:
            return (await self._journal.open(ExecutionId(answer))).snapshot()

        return await self._ledger.once(order.request, attempt, again)
