"""A room: the one task that owns a notebook while it is in memory.

Everybody else sends it messages. Its parts share its task: `pages` is the document (`editor` takes the messages to it,
`replication` those of live replicas), `runner` the executions, `seating` the kernel and its sandbox, `presence` who is
there, and `ledger` the way to the store that all of them use.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

from cellyard_controller import faults
from cellyard_controller.config import Config
from cellyard_controller.errors import NoKernel, Stopping, Unavailable
from cellyard_controller.executions import queue as q
from cellyard_controller.executions import records as execution_records
from cellyard_controller.executions.calls import Answer
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.model import Event, Execution, Notice, State
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import CellId, ExecutionId, NotebookKey, NotebookRef, SessionId
from cellyard_controller.notebooks.calling import Calling
from cellyard_controller.notebooks.document import Document
from cellyard_controller.notebooks.editor import Editor
from cellyard_controller.notebooks.hearing import Hearing
from cellyard_controller.notebooks.kernel import Kernel, KernelView, settings_from_json
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.pages import Pages
from cellyard_controller.notebooks.presence import Presence
from cellyard_controller.notebooks.records import NotebookRecord, Request
from cellyard_controller.notebooks.replication import Replication
from cellyard_controller.notebooks.runner import Order, Runner
from cellyard_controller.notebooks.seating import News, Seating
from cellyard_controller.notebooks.watchers import Watchers
from cellyard_controller.notebooks.watching import Watching
from cellyard_controller.notebooks.widgets import Widgets
from cellyard_controller.replicas.process import ReplicaWorker
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.link import Question
from cellyard_controller.sandboxes.sandbox import KernelSettings, Sandbox
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store

T = TypeVar("T")

_LONGEST_WAIT = 3600.0

log = structlog.get_logger()


class Room:
    """One notebook in memory. Its coroutines may be called from any task; their work is done in the room's own."""

    def __init__(
        self,
        record: NotebookRecord,
        document: Document | Unavailable,
        chunk_count: int,
        last_by_cell: dict[CellId, ExecutionId],
        *,
        store: Store,
        supervisor: Supervisor,
        seal: Seal,
        config: Config,
        replicas: ReplicaWorker,
    ) -> None:
        """`document`: it, or why there is none; executions and kernel do without."""
        self.key: NotebookKey = record.key
        self.ref: NotebookRef = record.ref
        self._store, self._config = store, config
        self._inbox: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any] | None]] = asyncio.Queue()
        self._stopped = self._closed = False
        self._beside: set[asyncio.Task[None]] = set()
        self._flush_at: asyncio.TimerHandle | None = None
        self._wake_at: asyncio.TimerHandle | None = None
        self._kernel = Kernel(record.kernel_end)
        if record.kernel_settings is not None:
            self._kernel.settings = settings_from_json(seal.open(record.kernel_settings))
        self.watchers = Watchers()
        """Who watches."""
        self._journal = Journal(record.key, store, config.limits, self.watchers.execution)
        self._presence = Presence(config.sessions.grace)
        self._ledger = Ledger(record.ref, store, self._journal, self._kernel, self._flush_in)
        self._pages = Pages(
            record.key,
            document,
            chunk_count,
            last_by_cell,
            store=store,
            journal=self._journal,
            ledger=self._ledger,
            watchers=self.watchers,
        )
        self._calling = Calling(
            journal=self._journal,
            kernel=self._kernel,
            ledger=self._ledger,
            grace_s=config.sessions.grace,
            running=self._running,
        )
        self._widgets = Widgets(
            record.key, store=store, kernel=self._kernel, ledger=self._ledger, watchers=self.watchers
        )
        self._runner = Runner(
            record.key,
            store=store,
            journal=self._journal,
            kernel=self._kernel,
            ledger=self._ledger,
            calling=self._calling,
            widgets=self._widgets,
            on_accepted=self.watchers.accepted,
            on_started=self._pages.last_by_cell.__setitem__,
        )
        self.editor = Editor(
            self._pages,
            runner=self._runner,
            kernel=self._kernel,
            ledger=self._ledger,
            widgets=self._widgets,
            ask=self._ask,
        )
        """The document, for everybody."""
        hearing = self._hearing = Hearing(
            config=config,
            kernel=self._kernel,
            journal=self._journal,
            ledger=self._ledger,
            runner=self._runner,
            widgets=self._widgets,
            ask=self._ask,
            post=self._post,
            flush_in=self._flush_in,
        )
        self.watching = Watching(
            self.watchers,
            self._pages,
            journal=self._journal,
            runner=self._runner,
            kernel=self._kernel,
            ledger=self._ledger,
            widgets=self._widgets,
            ask=self._ask,
        )
        """The notebook and what happens to it, for everybody."""
        self.replication = Replication(
            record.key,
            record.ref,
            self._pages,
            self.editor,
            store=store,
            seal=seal,
            config=config.replicas,
            worker=replicas,
            ask=self._ask,
        )
        """The document, for live replicas."""
        self._seating = Seating(
            record.key,
            record.ref,
            supervisor=supervisor,
            seal=seal,
            kernel=self._kernel,
            runner=self._runner,
            ledger=self._ledger,
            calling=self._calling,
            owner=hearing,
            spawn=self._spawn,
            ask=self._ask,
        )
        hearing.seating = self._seating

    # The task

    async def run(self) -> None:
        """Handles messages one after the other until `stop`."""
        while not self._stopped:
            work, answer = await self._inbox.get()
            if answer is not None and answer.done():
                continue  # nobody waits any more, and nothing of it was promised
            try:
                result = await work()
            except Exception as failed:  # a refusal goes to who asked; a defect must not end the room
                if answer is None:
                    log.exception("a message to a room failed", notebook=self.ref.notebook_id)
                elif not answer.done():
                    answer.set_exception(failed)
            else:
                if answer is not None and not answer.done():
                    answer.set_result(result)
            if self.watchers.anybody and self._ledger.empty:
                self.watchers.kernel(self._kernel.view())
            self._set_wake()

    async def recover(self, sandbox: Sandbox | None, committed: int, lost: tuple[EndReason, str]) -> None:
        """After the controller's start: goes on with what is unfinished. Called once, before `run`.

        Without a sandbox whatever was dispatched is lost, for the reason given; what only waited runs in a kernel
        that is yet to come.
        """
        unfinished = await self._journal.recover()
        self._runner.recover(unfinished)
        if sandbox is not None and self._kernel.settings is not None:
            self._seating.adopt(sandbox, committed)
        elif any(execution.state is not State.QUEUED for execution in unfinished):
            self._seating.lose(*lost)
            await self._ledger.commit()
        self._seating.start_if_wanted()
        self._set_wake()

    def stop(self) -> None:
        """Ends `run` after the message in work: one cut in the middle of a commit could not know what is stored."""

        async def work() -> None:
            self._stopped = True

        self._post(work)

    async def close(self) -> None:
        """Writes what is left and lets go. `run` has ended before."""
        self.replication.close()
        for timer in (self._flush_at, self._wake_at):
            if timer is not None:
                timer.cancel()
        for task in list(self._beside):
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        self._closed = True
        while not self._inbox.empty():  # a sandbox's end may have come while the controller stops
            work, answer = self._inbox.get_nowait()
            if answer is None:
                await work()
            elif not answer.done():
                answer.set_exception(Stopping("the controller is stopping"))
        await self._ledger.flush()

    @property
    def at_rest(self) -> bool:
        """Whether nothing is lost by dropping the room from memory."""
        return (
            self._runner.queue.empty
            and not self._kernel.running
            and not self._presence.anybody
            and not self.watchers.anybody
            and not self.replication.anybody
            and self._ledger.empty
            and self._inbox.empty()
            and not self._beside
        )

    # Executions

    async def execute(self, order: Order) -> Execution:
        """Accepts an execution: when this returns, it is on disk."""
        return await self._ask(partial(self._accept, order))

    async def follow(
        self, execution_id: ExecutionId, after_seq: int, session_id: SessionId
    ) -> AsyncGenerator[Event | Notice]:
        """An execution's events as they are committed; ends after its `finished`. Raises ExecutionNotFound.

        While the session that started it follows, the execution's calls have somebody to answer them.
        """
        live = await self._ask(partial(self._journal.open, execution_id))
        answers = bool(live.execution.offers) and live.execution.session_id == session_id
        if answers:
            await self._ask(partial(self._calling.attach, execution_id))
        try:
            async for item in live.log.follow(after_seq):
                yield item
        finally:
            if answers:
                self._post(partial(self._calling.detach, execution_id))

    async def answer_call(self, execution_id: ExecutionId, call_id: str, request_id: str, answer: Answer) -> bool:
        """A client answers a call of the code; False where the call had its end before."""
        return await self._ask(partial(self._calling.answer, execution_id, call_id, request_id, answer))

    async def execution(self, execution_id: ExecutionId) -> Execution:
        """One execution with its outputs so far."""

        async def work() -> Execution:
            return (await self._journal.open(execution_id)).snapshot()

        return await self._ask(work)

    async def executions(self, limit: int, before: ExecutionId | None) -> list[Execution]:
        """Executions, newest first, without outputs."""
        find = partial(execution_records.recent, notebook=self.key, limit=limit, before=before)
        return await self._store.read(find)

    async def cancel(self, request: Request, execution_id: ExecutionId) -> Execution:
        """Ends one execution: a waiting one is cancelled, a running one interrupted, an ended one left alone."""

        async def work() -> Execution:
            live = await self._journal.open(execution_id)
            self._runner.take(q.cancel(self._runner.queue, execution_id))
            await self._ledger.commit()
            return live.snapshot()

        return await self._ask(work)

    # Kernel

    async def start_kernel(
        self, session_id: SessionId, settings: KernelSettings
    ) -> AsyncIterator[tuple[str, str] | KernelView]:
        """Progress (stage, message) while a kernel starts, last the kernel. Raises Refused."""

        async def work() -> None:
            change = Change()
            await self._seating.choose(settings, change)
            await self._ledger.commit(change)
            self._presence.used(session_id)
            self._seating.start()

        async for item in self._watch(work):
            yield item

    async def restart_kernel(self, request: Request, session_id: SessionId) -> KernelView:
        """A fresh kernel in the same sandbox; what ran is lost, what waited for it is cancelled."""

        async def work() -> None:
            async def attempt() -> None:
                self._ledger.remember(request, "")
                await self._seating.restart()

            async def again(_: str) -> None:
                self._seating.start()

            self._presence.used(session_id)
            await self._ledger.once(request, attempt, again)

        async for item in self._watch(work):
            if isinstance(item, KernelView):
                return item
        raise NoKernel("the kernel was shut down while it started")

    async def kernel(self) -> KernelView:
        """The kernel as it stands."""

        async def work() -> KernelView:
            return self._kernel.view()

        return await self._ask(work)

    async def shutdown_kernel(
        self, reason: EndReason = EndReason.SHUTDOWN, message: str = "the kernel was shut down"
    ) -> KernelView:
        """Ends kernel and sandbox; without a kernel it does nothing."""

        async def work() -> KernelView:
            await self._seating.shut_down(reason, message)
            return self._kernel.view()

        return await self._ask(work)

    async def interrupt(self, request: Request, session_id: SessionId, restart_after_s: float | None) -> KernelView:
        """Interrupts the running cell and cancels what this session has waiting. Raises NoKernel."""

        async def attempt() -> KernelView:
            if not self._kernel.running:
                raise NoKernel(f"no kernel runs for notebook {self.ref.notebook_id!r}: nothing to interrupt")
            change = Change()
            self._ledger.remember(request, "", change)
            await self._ledger.commit(change)
            running = self._runner.queue.running
            self._runner.take(q.interrupt(self._runner.queue, session_id))
            await self._ledger.commit()
            if running is not None and restart_after_s is not None:
                self._runner.send_interrupt(running.execution_id, restart_after_s)
            return self._kernel.view()

        async def again(_: str) -> KernelView:
            return self._kernel.view()

        return await self._ask(partial(self._ledger.once, request, attempt, again))

    async def question(self, question: Question) -> dict[str, Any]:
        """Asks the kernel something beside its executions. Raises NoKernel, NoAnswer where it is busy."""
        return await self._hearing.question(question)

    async def send_comm(self, request: Request, said: CommSaid) -> None:
        """Gives the kernel a comm's message. Raises NoKernel."""

        async def attempt() -> None:
            sandbox = self._kernel.sandbox
            if sandbox is None or not self._kernel.takes_cells:
                raise NoKernel(f"no kernel runs for notebook {self.ref.notebook_id!r}")
            change = Change()
            self._ledger.remember(request, "", change)
            await self._widgets.moved(said)
            await self._ledger.commit(change)
            self._kernel.last_used = time.time()
            sandbox.link.comm(said)

        async def again(_: str) -> None:
            pass  # the kernel has it

        await self._ask(partial(self._ledger.once, request, attempt, again))

    # Presence

    async def attach_session(self, session_id: SessionId, *, used_kernel: bool) -> None:
        """A session is there. `used_kernel`: it says that it has used the kernel before."""

        async def work() -> None:
            self._presence.attach(session_id)
            if used_kernel:
                self._presence.used(session_id)

        await self._ask(work)

    def detach_session(self, session_id: SessionId) -> None:
        """A session's stream has ended."""

        async def work() -> None:
            self._presence.detach(session_id)

        self._post(work)

    async def close_session(self, session_id: SessionId) -> bool:
        """A clean exit; True where the kernel was shut down, because nobody else uses it."""

        async def work() -> bool:
            if self._presence.leave(session_id) and self._kernel.running:
                await self._seating.shut_down(EndReason.SHUTDOWN, "the last session that used the kernel has left")
                return True
            return False

        return await self._ask(work)

    # Inside

    async def _accept(self, order: Order) -> Execution:
        async def attempt() -> Execution:
            if order.coalesce:
                source = self._pages.code_of(order.cell_id)
                if (same := self._runner.waiting_like(order, source)) is not None:
                    return same
            change = Change()
            await self._seating.choose(order.settings, change)
            try:
                if order.new_source is None:
                    source = self._pages.code_of(order.cell_id)
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
                    raise
            except BaseException as failed:
                if order.new_source is not None:
                    await self._pages.take_back(failed)
                raise
            self._presence.used(order.session_id)
            self._kernel.last_used = time.time()
            self._seating.start_if_wanted()
            return live.snapshot()

        async def again(answer: str) -> Execution:
            return (await self._journal.open(ExecutionId(answer))).snapshot()

        return await self._ledger.once(order.request, attempt, again)

    async def _watch(self, begin: Callable[[], Awaitable[None]]) -> AsyncIterator[tuple[str, str] | KernelView]:
        """Begins something with the kernel and tells how it goes, last the kernel; raises where it fails."""
        news: asyncio.Queue[News] = asyncio.Queue()
        self._seating.watch(news)
        try:
            await self._ask(begin)
            while True:
                item = await news.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, KernelView):
                    return
        finally:
            self._seating.unwatch(news)

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise Stopping("the controller is stopping")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait((work, answer))
        return await answer

    def _running(self) -> ExecutionId | None:
        running = self._runner.queue.running
        return running.execution_id if running is not None else None

    def _post(self, work: Callable[[], Awaitable[Any]]) -> None:
        self._inbox.put_nowait((work, None))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    def _flush_in(self, seconds: float) -> None:
        if self._flush_at is None:
            self._flush_at = asyncio.get_running_loop().call_later(seconds, self._post, self._flush)

    async def _flush(self) -> None:
        self._flush_at = None
        await self._ledger.flush()

    def _set_wake(self) -> None:
        """Sets the timer for the next moment at which something is due."""
        due = [q.next_deadline(self._runner.queue), self._seating.deadline(), self._calling.deadline()]
        moments = [moment for moment in due if moment is not None]
        if self._wake_at is not None:
            self._wake_at.cancel()
            self._wake_at = None
        if moments:
            delay = min(max(0.0, min(moments) - time.time()) + 0.001, _LONGEST_WAIT)
            self._wake_at = asyncio.get_running_loop().call_later(delay, self._post, self._on_time)

    async def _on_time(self) -> None:
        now = time.time()
        self._runner.take(q.time_passed(self._runner.queue, now), "it did not start in time")
        self._seating.time_passed(now)
        self._calling.time_passed()
        await self._ledger.flush()
