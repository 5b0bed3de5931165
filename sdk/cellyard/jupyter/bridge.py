"""A kernel's Jupyter side: a notebook's kernel, behind the sockets that front ends know."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from cellyard import AsyncClient, AsyncSession, events
from cellyard.errors import CellyardError, NoKernel, NotebookNotFound
from cellyard.info import KernelInfo
from cellyard.jupyter.channels import Channels, Place, Request, log
from cellyard.jupyter.comms import Comms
from cellyard.jupyter.runs import Runs
from cellyard.jupyter.settings import Settings
from cellyard.jupyter.shell import Shell

LABEL = {"cellyard.client": "jupyter"}
WATCHED_WITHIN_S = 10.0
_WATCH_AGAIN_S = 1.0
_GONE_IN_PEACE = frozenset({"idle", "ttl", "evicted", "shutdown"})
"""Ends of a kernel that nobody was using: the next cell starts another one, and says so."""
_DIED = 1
_KILLED = -9


class Bridge:
    """One kernel, from its launch over its restarts to its end. Belongs to one event loop."""

    def __init__(self, settings: Settings, kernel_id: str) -> None:
        self._settings = settings
        self._notebook_id = settings.notebook or f"jupyter-{kernel_id}"
        self._channels: Channels | None = None
        self._session: AsyncSession | None = None
        self._work: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._runs: Runs
        self._shell: Shell
        self._comms = Comms()
        self._info: dict[str, Any] = {}
        self._watched = asyncio.Event()
        self._ended = asyncio.Event()
        self._replacing = False
        self.exit_code: int | None = 0
        """None while the kernel lives."""

    # Its life, as a provisioner sees it

    async def bind(self, place: Place) -> Place:
        """Listens there, and returns where that is; where it listens there already, nothing is changed."""
        bound = self._channels.place if self._channels is not None else None
        if bound == place and place.transport != "ipc":  # whose sockets' files a manager removes
            return place
        self._unbind()
        self._channels = Channels(place)
        return self._channels.place

    async def launch(self, cwd: str) -> None:
        """Starts the kernel, or a fresh one in the same sandbox. Raises CellyardError."""
        if self._session is None:
            await self._start(cwd)
        else:
            await self._restart(cwd)
        assert self._session is not None
        assert self._channels is not None
        self._info = await self._session.kernel_info()
        self._channels.serve(self._on_request)
        self.exit_code = None
        self._ended.clear()
        self._work = asyncio.create_task(self._shell.work(), name="cellyard-jupyter-work")
        self._channels.publish("status", {"execution_state": "starting"}, None)

    async def interrupt(self) -> None:
        """Interrupts what runs."""
        if self._session is None:
            return
        try:
            await self._runs.interrupt()
        except CellyardError as failed:
            log.warning("the kernel cannot be interrupted: %s", failed)

    def end(self, exit_code: int = _KILLED) -> None:
        """To its front ends the kernel has ended. Its sandbox waits for a restart, or for `close`."""
        if self.exit_code is not None:
            return
        self.exit_code = exit_code
        if self._work is not None:
            self._work.cancel()
        if self._session is not None:
            self._shell.forget()
            self._runs.forget()
        self._comms.forget()
        self._ended.set()

    async def wait(self) -> None:
        """Returns once it has ended."""
        await self._ended.wait()

    async def close(self) -> None:
        """Ends the kernel with its sandbox, and deletes the notebook, unless that is the user's own."""
        self.end()
        await _over(self._work, self._watching)
        self._unbind()
        session, self._session = self._session, None
        if session is None:
            return
        try:
            if not self._settings.notebook:
                await self._delete()
        except CellyardError as failed:
            log.warning("notebook %s is left behind: %s", self._notebook_id, failed)
        await session.close()

    # Inside

    async def _start(self, cwd: str) -> None:
        settings = self._settings
        session = AsyncSession(
            self._notebook_id,
            endpoint=settings.endpoint or None,
            token=settings.token(),
            template=settings.template or None,
            network=settings.network or None,
            require=settings.require,
            files=_beside(cwd) if settings.files == "beside" else None,
            idle_timeout=settings.idle_timeout or None,
            labels=LABEL,
            on_progress=lambda progress: log.info("%s", progress.message),
        )
        try:
            await session.connect()
        except BaseException:
            await session.close()
            raise
        self._session = session  # whatever comes now, there is something to take back
        self._runs = Runs(session, self._the_channels)
        self._shell = Shell(session, self._the_channels, self._runs, self._died)
        await self._start_kernel(session, cwd)
        self._watching = asyncio.create_task(self._watch(session), name="cellyard-jupyter-watch")
        try:
            await asyncio.wait_for(self._watched.wait(), WATCHED_WITHIN_S)
        except TimeoutError:
            pass  # cells run without it

    async def _start_kernel(self, session: AsyncSession, cwd: str) -> None:
        kernel = self._settings.kernel
        if self._settings.env_source:
            await session.start_kernel(kernel, self._settings.env_source, Path(cwd) / "notebook.ipynb")
        else:
            await session.start_kernel(kernel)

    async def _restart(self, cwd: str) -> None:
        assert self._session is not None
        self.end()
        await _over(self._work)
        self._replacing = True
        try:
            await self._session.restart_kernel()
        except NoKernel:
            await self._start_kernel(self._session, cwd)
        finally:
            self._replacing = False

    def _unbind(self) -> None:
        channels, self._channels = self._channels, None
        if channels is not None:
            channels.close()

    async def _delete(self) -> None:
        async with AsyncClient(self._settings.endpoint or None, self._settings.token()) as client:
            try:
                await client.delete_notebook(self._notebook_id)
            except NotebookNotFound:
                pass  # somebody was faster

    def _the_channels(self) -> Channels:
        assert self._channels is not None, "whoever speaks does so between bind and close"
        return self._channels

    def _died(self, why: str) -> None:
        log.warning("the kernel of %s has died: %s", self._notebook_id, why)
        self.end(_DIED)

    # What front ends ask for

    async def _on_request(self, request: Request) -> None:
        if request.channel == "stdin":
            self._runs.questions.answered(request)
        elif self.exit_code is not None:
            log.debug("a %s is dropped: the kernel has ended", request.kind[:100])
        elif request.kind == "kernel_info_request":
            self._at_once(request, self._info)
        elif request.kind == "comm_info_request":
            self._at_once(request, self._comms.info(request.content.get("target_name")))
        elif request.kind == "connect_request":
            self._at_once(request, {f"{name}_port": port for name, port in self._the_channels().place.ports.items()})
        elif request.kind == "interrupt_request":
            await self.interrupt()
            self._at_once(request, {})
        elif request.kind == "shutdown_request":
            await self._shut_down(request)
        elif request.channel == "shell":
            self._comms.heard(request)
            self._shell.put(request)
        else:
            log.warning("a %s on the control channel is dropped: there is no such", request.kind[:100])

    def _at_once(self, request: Request, content: Mapping[str, Any]) -> None:
        channels = self._the_channels()
        channels.publish("status", {"execution_state": "busy"}, request.header)
        channels.reply(request, request.kind.replace("_request", "_reply"), {"status": "ok", **content})
        channels.publish("status", {"execution_state": "idle"}, request.header)

    async def _shut_down(self, request: Request) -> None:
        restart = request.content.get("restart") is True
        told = {"restart": restart}
        self._at_once(request, told)
        self._the_channels().publish("shutdown_reply", {"status": "ok", **told}, request.header)
        self.end(0)
        if not restart and self._session is not None:
            try:  # the front end may be one that has not started this kernel, so that nobody closes this
                await self._session.shutdown_kernel()
            except CellyardError as failed:
                log.warning("the kernel cannot be shut down: %s", failed)

    # What the notebook tells

    async def _watch(self, session: AsyncSession) -> None:
        while True:
            try:
                async with aclosing(session.watch()) as happening:  # type: ignore[type-var]
                    async for event in happening:
                        await self._noticed(session, event)
            except NotebookNotFound:
                self._died("its notebook was deleted")
                return
            except CellyardError as failed:
                log.warning("notebook %s cannot be watched: %s", self._notebook_id, failed)
            self._runs.order.watch_broke()
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def _noticed(self, session: AsyncSession, event: events.NotebookEvent) -> None:
        order = self._runs.order
        match event:
            case events.Snapshot(executions=executions):
                order.watch_began()
                for execution in executions:
                    if execution.started_at is None:
                        order.accepted(execution.execution_id)
                self._watched.set()
            case events.ExecutionEvent(execution_id=execution_id, event=events.Accepted()):
                order.accepted(execution_id)
            case events.ExecutionEvent(execution_id=execution_id, event=what):
                if what_seq := getattr(what, "seq", 0):
                    order.told(execution_id, what_seq, what)
            case events.CommSaid():
                if self.exit_code is None:
                    self._said(event)
            case events.KernelChanged(kernel=kernel):
                if kernel.state in ("dead", "none") and self._at_rest() and not await session.kernel_started():
                    self._gone(kernel)

    def _at_rest(self) -> bool:
        """Nothing runs, whose end would tell that of the kernel."""
        return self.exit_code is None and not self._replacing and self._runs.current is None

    def _gone(self, kernel: KernelInfo) -> None:
        if self._at_rest():
            self._comms.forget()
            self._runs.count = 0
            if kernel.end_reason not in _GONE_IN_PEACE:
                self._died(kernel.end_reason or "unknown")

    def _said(self, said: events.CommSaid) -> None:
        current = self._runs.current
        parent = current.header if current is not None else self._shell.parent
        self._comms.said(said, self._the_channels(), parent, self._runs.message_ids)


async def _over(*tasks: asyncio.Task[None] | None) -> None:
    """Ends tasks, and waits for their end."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def _beside(cwd: str) -> dict[str, bytes]:
    from cellyard.cli.sources import plain_files

    files, left_out = plain_files(Path(cwd))
    if left_out:
        log.warning("files that do not go along, unreadable or too large: %s", ", ".join(left_out))
    return files
