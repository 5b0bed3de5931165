"""The shell's loop: a prompt, a cell, and again; and what happens to the kernel meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING

from cellyard import events
from cellyard._version import VERSION
from cellyard.cli import outcome
from cellyard.cli.shell import commands
from cellyard.errors import CellyardError, NotebookNotFound
from cellyard.results import Progress

if TYPE_CHECKING:
    from cellyard import AsyncSession, ExecutionResult, KernelInfo
    from cellyard.cli.shell.prompting import Prompts
    from cellyard.cli.shell.screen import Screen

_GONE = ("none", "dead")
LEFT_S = 10.0
"""An interrupted cell has so long to give up an input() that nobody answers."""


class Shell:
    """One shell. Its task writes all of this; signals only ask for something."""

    def __init__(
        self, session: AsyncSession, screen: Screen, prompts: Prompts, kernel_type: str, env_source: str
    ) -> None:
        self._session, self._screen, self._prompts = session, screen, prompts
        self._kernel_type, self._env_source = kernel_type, env_source
        self.executions: dict[int, str] = {}
        """The executions by their counts, of this kernel."""
        self._count = 0
        self._work: asyncio.Task[None] | None = None
        self._execution_id = ""
        self._interrupts = 0
        self._asked = asyncio.Event()
        self._secret: deque[bool] = deque()
        self._ran = asyncio.Event()
        self._kernel_told = True
        # Ends of kernels, as the executions told of them and as the watcher saw them: either may come first.
        self._alive = False
        self._ends_told = self._ends_seen = 0

    async def run(self, *, keep: bool, endpoint: str | None, token: str | None) -> int:
        """Runs the shell; returns the exit code. A notebook that was made for it goes with it, unless `keep`."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        try:
            if not await self._working(self._start()):
                return outcome.INTERRUPTED
            watcher = asyncio.create_task(self._watch())
            try:
                await self._prompt_again_and_again()
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
        except asyncio.CancelledError:
            task.uncancel()
            return outcome.TERMINATED
        finally:
            await self._leave(keep=keep, endpoint=endpoint, token=token)
        return outcome.DONE

    async def restart(self) -> None:
        """Replaces the kernel by a fresh one."""
        try:
            await self._session.restart_kernel()
        except CellyardError as error:
            self._screen.say(str(error))
            return
        self._forget()
        self._screen.say("the kernel was restarted: what was defined is gone")

    async def _start(self) -> None:
        await self._session.start_kernel(self._kernel_type, self._env_source)
        source = await self._session.env_source()
        self._screen.started()
        self._screen.say(
            f"{VERSION}, {self._kernel_type} kernel ({source}), notebook {self._session.notebook_id}; "
            ":help explains, Ctrl-D leaves"
        )

    async def _prompt_again_and_again(self) -> None:
        while True:
            try:
                code = await self._prompts.code(self._count + 1)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if not code.strip():
                continue
            if code.lstrip().startswith(":"):
                if await commands.do(code.strip()[1:], self, self._session, self._screen):
                    return
                continue
            if not await self._working(self._cell(code)):
                self._screen.say("not run")
            self._screen.ended()

    async def _working(self, work: Coroutine[None, None, None]) -> bool:
        """Does something that Ctrl-C may break off; whether it came to its end."""
        self._interrupts, self._execution_id = 0, ""
        self._asked.clear()
        with self._screen.working():
            self._work = asyncio.create_task(work)
            interrupts = asyncio.create_task(self._interrupting())
            try:
                await asyncio.wait([self._work])
                if not self._work.cancelled():
                    self._work.result()
                return not self._work.cancelled()
            finally:  # also where this task itself is told to end
                for task in (self._work, interrupts):
                    task.cancel()
                await asyncio.gather(self._work, interrupts, return_exceptions=True)
                self._work = None

    async def _cell(self, code: str) -> None:
        self._ran.set()
        count: int | None = None
        stream = self._session.stream_execute(
            code=code, timeout_secs=None, on_cancel="interrupt", on_input=self._answer
        )
        self._secret.clear()
        try:
            async for event in stream:
                match event:
                    case Progress():
                        self._screen.progress(event)
                    case events.Queued() | events.Waiting():
                        self._execution_id = event.execution_id
                        self._screen.progress(Progress("waiting", _waits(event)))
                    case events.Started():
                        self._execution_id, count = event.execution_id, event.execution_count
                        self._screen.started()
                        self._counted(count)
                    case events.OutputEvent(output=output) | events.DisplayUpdated(output=output):
                        self._screen.output(output, count)
                    case events.InputRequested():
                        self._secret.append(event.password)
                    case events.Warned():
                        self._screen.say(event.message)
                    case events.Finished():
                        self._screen.started()
                        self._finished(event.result)
        except CellyardError as error:
            self._screen.say(str(error))
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    def _counted(self, count: int | None) -> None:
        if count is None:
            return
        if count <= self._count and not self._kernel_told:
            self._screen.say("this is another kernel than before: what was defined is gone")
        if count <= self._count:
            self.executions.clear()
        self._count = count
        self._kernel_told = False
        self.executions[count] = self._execution_id

    def _finished(self, result: ExecutionResult) -> None:
        if result.end == "lost":
            self._ends_told += 1
            why = result.end_message or result.end_reason or "no reason given"
            self._screen.say(f"the kernel ended: {why}; the next cell gets a new one, without what was defined")
            self._forget()
        elif not result.success and result.error is None:
            reason = result.end_message or result.end_reason
            self._screen.say(f"the cell was {result.end}" + (f": {reason}" if reason not in (None, result.end) else ""))

    def _forget(self) -> None:
        """The kernel is gone, and that was told."""
        self._count = 0
        self._kernel_told = True
        self.executions.clear()

    async def _answer(self, prompt: str) -> str:
        """A line for input(). Ctrl-C there interrupts the cell, Ctrl-D is its end of file."""
        secret = self._secret.popleft() if self._secret else False
        try:
            return await self._prompts.line(prompt, password=secret)
        except KeyboardInterrupt:
            self._interrupted()
            await asyncio.sleep(LEFT_S)  # the interrupt ends the call, and this with it
            raise EOFError("interrupted") from None

    def _interrupted(self) -> None:
        """Ctrl-C, while something runs; at a prompt it is a key."""
        if self._work is None:
            return
        self._interrupts += 1
        if not self._execution_id:
            self._work.cancel()
        else:
            self._asked.set()

    async def _interrupting(self) -> None:
        """The first Ctrl-C interrupts the cell, the second says what a third does."""
        done = 0
        while True:
            await self._asked.wait()
            self._asked.clear()
            if not done:
                self._screen.progress(Progress("interrupt", "interrupting the cell"))
                try:
                    await self._session.cancel(self._execution_id)
                except CellyardError as error:
                    self._screen.say(str(error))
            elif done == 1 and self._interrupts < 3:
                self._screen.say("the cell was interrupted and goes on; Ctrl-C once more restarts the kernel")
            else:
                await self.restart()
            done += 1

    async def _watch(self) -> None:
        """Tells when the kernel ends between two cells. Where the controller is gone, it looks again at the next."""
        while True:
            try:
                stream = self._session.watch()
                async with aclosing(stream) as told:  # type: ignore[type-var]
                    async for event in told:
                        if isinstance(event, events.Snapshot):
                            self._alive = event.kernel.state not in _GONE
                            self._ends_seen = self._ends_told
                        elif isinstance(event, events.KernelChanged):
                            self._kernel(event.kernel)
            except NotebookNotFound:
                self._screen.say("the notebook was deleted")
            except CellyardError as error:
                if self._work is None:
                    self._screen.say(str(error))
            self._ran.clear()
            await self._ran.wait()

    def _kernel(self, kernel: KernelInfo) -> None:
        was_alive, self._alive = self._alive, kernel.state not in _GONE
        if self._alive or not was_alive:
            return
        self._ends_seen += 1
        if self._ends_told >= self._ends_seen or self._work is not None:
            return  # told already, or by the cell that runs
        self._ends_told += 1
        self._screen.say(
            f"the kernel ended: {kernel.end_reason or 'no reason given'}; the next cell gets a new one, without what "
            "was defined"
        )
        self._forget()

    async def _leave(self, *, keep: bool, endpoint: str | None, token: str | None) -> None:
        from cellyard import AsyncClient

        used = self._session.notebook_id if await self._session.is_connected() else ""
        await self._session.close()
        if not used or keep:
            return
        try:
            async with AsyncClient(endpoint, token) as client:
                await client.delete_notebook(used)
        except CellyardError as error:
            self._screen.say(f"the notebook {used} is left behind: {error}")


def _waits(event: events.Queued | events.Waiting) -> str:
    if isinstance(event, events.Queued):
        return "waiting behind " + ("another cell" if event.ahead == 1 else f"{event.ahead} other cells")
    return f"waiting for a sandbox: {event.reason}"
