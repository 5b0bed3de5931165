"""A room's kernel for everybody: started, asked, interrupted, restarted and shut down; and who is there to use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from cellyard_controller.clock import steady
from cellyard_controller.errors import NoKernel
from cellyard_controller.executions import queue as q
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import NotebookRef, SessionId
from cellyard_controller.notebooks.calling import Calling
from cellyard_controller.notebooks.hearing import Hearing
from cellyard_controller.notebooks.inbox import Inbox
from cellyard_controller.notebooks.kernel import Kernel, KernelView
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.presence import Presence
from cellyard_controller.notebooks.runner import Runner
from cellyard_controller.notebooks.seating import News, Seating
from cellyard_controller.notebooks.widgets import Widgets
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.link_messages import Question
from cellyard_controller.sandboxes.sandbox import KernelSettings
from cellyard_controller.store.requests import UNNAMED, Request


class Driving:
    """The kernel of one room. Its coroutines may be called from any task."""

    def __init__(
        self,
        ref: NotebookRef,
        *,
        kernel: Kernel,
        seating: Seating,
        hearing: Hearing,
        runner: Runner,
        widgets: Widgets,
        presence: Presence,
        calling: Calling,
        ledger: Ledger,
        inbox: Inbox,
    ) -> None:
        self._ref, self._kernel, self._seating, self._hearing = ref, kernel, seating, hearing
        self._runner, self._widgets, self._presence = runner, widgets, presence
        self._calling, self._ledger, self._inbox = calling, ledger, inbox

    async def start(
        self, request: Request, session_id: SessionId, settings: KernelSettings
    ) -> AsyncIterator[tuple[str, str] | KernelView]:
        """Progress (stage, message) while a kernel starts, last the kernel. Raises Refused."""

        async def choose(change: Change) -> None:
            await self._seating.choose(settings, change)
            await self._ledger.commit(change)

        async def attempt() -> None:
            change = Change()
            self._ledger.remember(request, "", change)
            await choose(change)

        async def again(_: str) -> None:
            # The kernel that it asked for is started, unless it runs.
            if self._kernel.settings is None:  # the notebook was deleted meanwhile, and is another one now
                await choose(Change())

        async def work() -> None:
            await self._ledger.once(request, attempt, again)
            self._presence.used(session_id)
            self._seating.start()

        async for item in self._follow(work):
            yield item

    async def restart(self, request: Request, session_id: SessionId) -> KernelView:
        """A fresh kernel in the same sandbox; what ran is lost, what waited for it is cancelled."""

        async def work() -> None:
            self._presence.used(session_id)
            if await self._ledger.answered(request) is None or self._kernel.settings is None:
                await self._seating.restart(request)
            else:
                self._seating.start()

        async for item in self._follow(work):
            if isinstance(item, KernelView):
                return item
        raise NoKernel("the kernel was shut down while it started")

    async def extend(self, request: Request, ttl_s: float | None) -> KernelView:
        """The kernel's ttl counts anew, from now. Raises NoKernel."""

        async def attempt() -> KernelView:
            change = Change()
            self._ledger.remember(request, "", change)
            self._seating.extend(ttl_s, change)
            await self._ledger.commit(change)
            return self._kernel.view()

        async def again(_: str) -> KernelView:
            return self._kernel.view()

        async def work() -> KernelView:
            return await self._ledger.once(request, attempt, again)

        return await self._inbox.ask(work)

    async def view(self) -> KernelView:
        """The kernel as it stands."""

        async def work() -> KernelView:
            return self._kernel.view()

        return await self._inbox.ask(work)

    async def shut_down(
        self,
        reason: EndReason = EndReason.SHUTDOWN,
        message: str = "the kernel was shut down",
        request: Request = UNNAMED,
    ) -> KernelView:
        """Ends kernel and sandbox; without a kernel, and where the request was carried out, it does nothing."""

        async def work() -> KernelView:
            if await self._ledger.answered(request) is None:
                await self._seating.shut_down(reason, message)
                await self._ledger.commit_done(request)
            return self._kernel.view()

        return await self._inbox.ask(work)

    async def interrupt(self, request: Request, session_id: SessionId, restart_after_s: float | None) -> KernelView:
        """Interrupts the running cell and cancels what this session has waiting. Raises NoKernel."""

        async def attempt() -> KernelView:
            if not self._kernel.running:
                raise NoKernel(f"no kernel runs for notebook {self._ref.notebook_id!r}: nothing to interrupt")
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

        return await self._inbox.ask(partial(self._ledger.once, request, attempt, again))

    async def question(self, question: Question) -> dict[str, Any]:
        """Asks the kernel something beside its executions. Raises NoKernel, NoAnswer where it is busy."""
        return await self._hearing.question(question)

    async def send_comm(self, request: Request, said: CommSaid) -> None:
        """Gives the kernel a comm's message. Raises NoKernel."""

        async def attempt() -> None:
            sandbox = self._kernel.sandbox
            if sandbox is None or not self._kernel.takes_cells:
                raise NoKernel(f"no kernel runs for notebook {self._ref.notebook_id!r}")
            change = Change()
            self._ledger.remember(request, "", change)
            await self._widgets.moved(said)
            await self._ledger.commit(change)
            self._kernel.last_used = steady()
            sandbox.link.comm(said)

        async def again(_: str) -> None:
            pass  # the kernel has it

        await self._inbox.ask(partial(self._ledger.once, request, attempt, again))

    # Who is there

    async def attach_session(self, session_id: SessionId, *, used_kernel: bool) -> None:
        """A session is there. `used_kernel`: it says that it has used the kernel before."""

        async def work() -> None:
            self._presence.attach(session_id)
            if used_kernel:
                self._presence.used(session_id)

        await self._inbox.ask(work)

    def detach_session(self, session_id: SessionId) -> None:
        """A session's stream has ended."""

        async def work() -> None:
            self._presence.detach(session_id)

        self._inbox.post(work)

    async def close_session(self, session_id: SessionId) -> bool:
        """A clean exit; True where the kernel was shut down, because nobody else uses it."""

        async def work() -> bool:
            self._calling.left(session_id)
            if self._presence.leave(session_id) and self._kernel.running:
                await self._seating.shut_down(EndReason.SHUTDOWN, "the last session that used the kernel has left")
                return True
            return False

        return await self._inbox.ask(work)

    async def _follow(self, begin: Callable[[], Awaitable[None]]) -> AsyncIterator[tuple[str, str] | KernelView]:
        """Begins something with the kernel and tells how it goes, last the kernel; raises where it fails."""
        news: asyncio.Queue[News] = asyncio.Queue()
        self._seating.watch(news)
        try:
            await self._inbox.ask(begin)
            while True:
                item = await news.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, KernelView):
                    return
        finally:
            self._seating.unwatch(news)
            self._inbox.post(self._seating.watcher_left)
