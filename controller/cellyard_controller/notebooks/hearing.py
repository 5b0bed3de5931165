"""A room's ear at its sandbox: what the agent says, taken into the room's task; and questions to the kernel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from cellyard_controller import json_text
from cellyard_controller.config import Config
from cellyard_controller.errors import NoAnswer, NoKernel, Refused
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.reports import CommSaid, Warned
from cellyard_controller.ids import SandboxId
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.notebooks.ledger import Ledger
from cellyard_controller.notebooks.runner import Runner
from cellyard_controller.notebooks.seating import Seating
from cellyard_controller.notebooks.widgets import Widgets
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.link_messages import (
    AgentHello,
    Answered,
    FromAgent,
    Greeting,
    KernelReport,
    Question,
)

FLUSH_WITHIN = 0.050
"""Seconds that output waits at most before it is committed."""
FLUSH_BYTES = 256 * 1024
"""Bytes of output that are committed at once."""
ANSWER_WITHIN = 5.0
"""Seconds that a question to a busy kernel waits."""
_SLACK = 2.0


class Hearing:
    """The owner of the room's sandbox. Its coroutines may be called from any task."""

    def __init__(
        self,
        *,
        config: Config,
        kernel: Kernel,
        journal: Journal,
        ledger: Ledger,
        runner: Runner,
        widgets: Widgets,
        ask: Ask,
        post: Callable[[Callable[[], Awaitable[Any]]], None],
        flush_in: Callable[[float], None],
    ) -> None:
        self._config, self._kernel = config, kernel
        self._journal, self._ledger, self._runner, self._widgets = journal, ledger, runner, widgets
        self._ask, self._post, self._flush_in = ask, post, flush_in
        self._questions: dict[int, asyncio.Future[str]] = {}
        self._numbers = itertools.count(1)
        self.seating: Seating  # the room sets it: each needs the other

    # As the owner of a sandbox

    async def link_up(self, hello: AgentHello) -> Greeting:
        """The agent has connected: it is told up to which report everything is committed."""

        async def work() -> Greeting:
            limits = self._config.limits
            grace = self._config.sandboxes.link_grace
            return Greeting(self.seating.link_up(hello), limits.output_bytes, limits.output_count, grace)

        return await self._ask(work)

    async def link_ready(self) -> None:
        """The agent is greeted."""
        await self._ask(self.seating.link_ready)

    async def link_received(self, message: FromAgent) -> None:
        """The agent says something. Returns when it is handled, so that a flood waits on its own socket."""
        if isinstance(message, KernelReport):
            await self._ask(partial(self.seating.kernel_report, message))
        elif isinstance(message, Answered):
            self._answered(message)
        elif isinstance(message, CommSaid):
            await self._ask(partial(self._comm_said, message))
        else:

            async def work() -> None:
                urgent = await self._runner.reports(message)
                if self._runner.died:
                    # Whoever reads that their cell is lost may run the next one at once: in a new kernel.
                    died, self._runner.died = self._runner.died, ""
                    await self.seating.kernel_report(KernelReport("dead", self._kernel.generation, died))
                await self.seating.caught_up()
                if urgent or self._journal.size >= FLUSH_BYTES:
                    await self._ledger.flush()
                else:
                    self._flush_in(FLUSH_WITHIN)

            await self._ask(work)

    async def link_down(self) -> None:
        """The connection has ended; the agent comes back, or the runtime reports its end."""
        self._refuse(NoAnswer("the connection to the sandbox broke; ask again"))

    async def evict(self, sandbox_id: SandboxId, why: str) -> bool:
        """Somebody else needs the room."""
        return await self._ask(partial(self.seating.evict, sandbox_id, why))

    async def sandbox_ended(self, sandbox_id: SandboxId, reason: EndReason, message: str) -> None:
        """The sandbox is gone."""
        self._refuse(NoKernel("the kernel has ended meanwhile"))

        async def work() -> None:
            sandbox = self._kernel.sandbox
            if sandbox is not None and sandbox.sandbox_id == sandbox_id:
                self.seating.lose(reason, message)
                await self._ledger.flush()

        self._post(work)

    def sandbox_warned(self, warning: Warned) -> None:
        """Something about the sandbox for whoever runs the running cell."""

        async def work() -> None:
            self._runner.warn(warning)
            self._flush_in(FLUSH_WITHIN)

        self._post(work)

    # Questions

    def abandon(self, why: Refused) -> None:
        """The room ends: whoever waits for an answer is told this."""
        self._refuse(why)

    async def question(self, question: Question) -> dict[str, Any]:
        """What the kernel replies, as Jupyter's messages have it. Raises NoAnswer, NoKernel where it is busy."""
        number = next(self._numbers)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            sandbox = self._kernel.sandbox
            if sandbox is None or not self._kernel.takes_cells:
                raise NoKernel("no kernel runs for this notebook")
            self._questions[number] = answer
            sandbox.link.ask(number, question, ANSWER_WITHIN)

        await self._ask(work)
        try:
            content = json_text.parse(await asyncio.wait_for(answer, ANSWER_WITHIN + _SLACK))
        except TimeoutError:
            raise NoAnswer(f"the sandbox has not answered for {ANSWER_WITHIN + _SLACK:g} s") from None
        except ValueError as bad:
            raise NoAnswer(f"the kernel's reply is no JSON: {bad}") from None
        finally:
            self._questions.pop(number, None)
        return content if isinstance(content, dict) else {}

    def _answered(self, message: Answered) -> None:
        waiting = self._questions.get(message.request)
        if waiting is None or waiting.done():
            return
        if not message.error:
            waiting.set_result(message.content or "{}")
        elif message.error == "no kernel":
            waiting.set_exception(NoKernel("no kernel runs for this notebook"))
        else:
            busy = f"the kernel runs a cell and has not answered for {ANSWER_WITHIN:g} s"
            why = busy if message.error == "busy" else f"the kernel did not answer: {message.error}"
            waiting.set_exception(NoAnswer(why))

    def _refuse(self, failure: Exception) -> None:
        for waiting in self._questions.values():
            if not waiting.done():
                waiting.set_exception(failure)

    async def _comm_said(self, message: CommSaid) -> None:
        await self._widgets.said(message)
        self._flush_in(FLUSH_WITHIN)
