"""The sandboxes that there are: watched, and ended in one way, whoever wants it and whatever happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from cellyard_controller.changes import Changes
from cellyard_controller.errors import SandboxAway
from cellyard_controller.ids import NotebookRef, SandboxId
from cellyard_controller.runtimes import Runtime, RuntimeFailed
from cellyard_controller.sandboxes import records
from cellyard_controller.sandboxes.counts import Counts
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.reconciling import Rounds, describe, why_ended
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_controller.store import Store, StoreFailed

_STOP_AGAIN_AFTER = (1.0, 5.0, 30.0)
_MISSED_PINGS = 3
_KEPT = (SandboxState.WARM, SandboxState.CLAIMED)

_STOP_WITHIN = 30.0
"""Seconds that ending everything may take."""
_MAX_NEWS = 1_000
"""What one who watches has to read at most."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SandboxView:
    """A sandbox as it is told."""

    sandbox_id: SandboxId
    instance_id: str
    notebook: NotebookRef | None
    state: SandboxState
    template: str
    runtime: str
    created_at: float
    claimed_at: float
    end_reason: str
    end_message: str
    node: str = ""
    """Where it is; "" where the store is not shared."""

    @classmethod
    def of(cls, sandbox: Sandbox, node: str = "") -> SandboxView:
        """As it is now."""
        reason, message = sandbox.end if sandbox.end is not None else ("", "")
        return cls(
            sandbox.sandbox_id,
            sandbox.instance_id,
            sandbox.notebook,
            sandbox.state,
            sandbox.template.name,
            sandbox.runtime.name,
            sandbox.created_at,
            sandbox.claimed_at,
            str(reason),
            message,
            node,
        )


class Stock:
    """All sandboxes of one controller that have not ended."""

    def __init__(
        self,
        store: Store,
        runtimes: Mapping[str, Runtime],
        tasks: asyncio.TaskGroup,
        *,
        on_ending: Callable[[SandboxId], None],
        on_gone: Callable[[SandboxId], None],
    ) -> None:
        """`on_ending` is called when a sandbox begins to end, `on_gone` when it has."""
        self._store, self._runtimes, self._tasks = store, runtimes, tasks
        self._on_ending, self._on_gone = on_ending, on_gone
        self.counts = Counts()
        """What happened to sandboxes."""
        self.changes = Changes()
        """Of sandboxes, pools and claims."""
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._rounds: dict[str, Rounds] = {}
        self._watching: set[asyncio.Queue[SandboxView | None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._releases: set[asyncio.Task[None]] = set()

    def sandboxes(self) -> list[Sandbox]:
        """Every sandbox, oldest first."""
        return sorted(self._sandboxes.values(), key=lambda sandbox: sandbox.created_at)

    def find(self, sandbox_id: SandboxId) -> Sandbox | None:
        """One of them."""
        return self._sandboxes.get(sandbox_id)

    def add(self, sandbox: Sandbox) -> None:
        """One more."""
        self._sandboxes[sandbox.sandbox_id] = sandbox
        sandbox.on_move = partial(self._moved, sandbox)
        sandbox.link.on_up = self.counts.linked
        self._moved(sandbox)

    def watch_over(self, controller_id: str, silent: Collection[str]) -> None:
        """Notices whatever becomes of sandboxes, from now on. `silent`: runtimes that did not answer yet."""
        for name, runtime in self._runtimes.items():
            rounds = self._rounds[name] = Rounds(runtime, controller_id, self)
            if name in silent:
                rounds.want()
            self.spawn(rounds.run())
            self.spawn(runtime.watch(self.on_exit))

    async def watch(self) -> AsyncGenerator[SandboxView | None, None]:
        """Every sandbox as it is, None, and from then on each one whenever it has changed.

        Raises Unavailable for whoever does not read in time: watching anew tells how things are.
        """
        news: asyncio.Queue[SandboxView | None] = asyncio.Queue(_MAX_NEWS)
        self._watching.add(news)
        try:
            for sandbox in self.sandboxes():
                yield SandboxView.of(sandbox)
            yield None
            while (view := await news.get()) is not None:
                yield view
            raise SandboxAway("too much has happened since this watcher has read: watch anew")
        finally:
            self._watching.discard(news)

    def _moved(self, sandbox: Sandbox) -> None:
        self.changes.tell()
        if not self._watching:
            return
        view = SandboxView.of(sandbox)
        for news in list(self._watching):
            if news.qsize() >= _MAX_NEWS - 1:
                self._watching.discard(news)
                news.put_nowait(None)
            else:
                news.put_nowait(view)

    async def release(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> None:
        """Ends a sandbox for good. Returns when its container is removed; ended ones are no error."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.state is SandboxState.STOPPING:
            return
        sandbox.move(SandboxState.STOPPING)
        self.counts.ended(sandbox.template.name, reason)
        log.info("sandbox ended", sandbox=sandbox_id, reason=reason.value, **sandbox.link.whose)
        await sandbox.ended(reason, message)
        sandbox.link.goodbye(reason)
        self._on_ending(sandbox_id)
        # It is noted first: else a successor could not say why it ended. But who loses a notebook may have lost the
        # store as well, and the sandbox is to be gone before another node goes on.
        lost = reason is EndReason.NODE_LOST
        if not lost:
            await self.note_end(sandbox_id, reason)
        if sandbox.instance_id:
            await self._remove_instance(sandbox.runtime.name, sandbox.instance_id)
        if lost:
            await self.note_end(sandbox_id, reason)
        await sandbox.link.close()
        sandbox.link.remove_folder()
        sandbox.move(SandboxState.ENDED)
        del self._sandboxes[sandbox_id]
        if not sandbox.instance_id:
            self._want_round(sandbox)  # it may come to be after all
        self._on_gone(sandbox_id)

    def let_go(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> asyncio.Task[None]:
        """Releases a sandbox, even where whoever asks for it is gone before that is done."""
        task = self._tasks.create_task(_guarded(self.release(sandbox_id, reason, message)), context=Context())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    async def note_end(self, sandbox_id: SandboxId, reason: EndReason) -> None:
        """Stores that a sandbox is over, where the store takes writes."""
        try:
            await self._store.write(partial(records.set_ended, sandbox_id=sandbox_id, reason=reason))
        except StoreFailed as failed:  # the next start finds its container gone, and notes the end then
            log.error("a sandbox's end is not stored", sandbox=sandbox_id, why=str(failed))

    def remove(self, runtime: str, instance_id: str) -> None:
        """Removes an instance that is nobody's, sooner or later."""
        self.spawn(self._remove_instance(runtime, instance_id))

    async def _remove_instance(self, runtime: str, instance_id: str) -> None:
        """Removes an instance, again and again while the engine does not."""
        for attempt in range(1_000_000):
            try:
                await self._runtimes[runtime].stop(instance_id)
            except RuntimeFailed as failed:
                pause = _STOP_AGAIN_AFTER[min(attempt, len(_STOP_AGAIN_AFTER) - 1)]
                log.warning("a sandbox is not removed yet", instance=instance_id, why=str(failed))
                await asyncio.sleep(pause)
            else:
                return

    def on_exit(self, instance_id: str) -> None:
        """A runtime says that an instance has ended."""
        for sandbox in self._sandboxes.values():
            if sandbox.instance_id == instance_id and sandbox.state is not SandboxState.STOPPING:
                self.look_after(sandbox)

    def look_after(self, sandbox: Sandbox) -> None:
        """Ends a sandbox whose instance has ended, sooner or later."""
        self.spawn(self._look_after(sandbox))

    async def _look_after(self, sandbox: Sandbox) -> None:
        """Ends a sandbox whose instance has ended, with the reason that the runtime knows."""
        try:
            instance = await sandbox.runtime.inspect(sandbox.instance_id)
        except RuntimeFailed as failed:
            log.warning("a sandbox cannot be inspected", sandbox=sandbox.sandbox_id, why=str(failed))
            self._want_round(sandbox)
            return
        if instance is None:
            await self.release(sandbox.sandbox_id, EndReason.RUNTIME_LOST, "the container is gone")
        elif not instance.running:
            await self.release(sandbox.sandbox_id, why_ended(instance), describe(instance, sandbox.template))

    async def ping_all(self, interval: float) -> None:
        """Asks every agent for signs of life; one that gives none for three intervals is ended."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(interval)
            for sandbox in self.sandboxes():
                away = sandbox.state is SandboxState.CLAIMED and not sandbox.link.held
                if not sandbox.link.up and not away:
                    continue
                if loop.time() - sandbox.link.last_heard > (_MISSED_PINGS + 1) * interval:
                    message = "the agent does not answer"
                    self.spawn(self.release(sandbox.sandbox_id, EndReason.RUNTIME_LOST, message))
                else:
                    sandbox.link.ping()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Does something beside everything else, until `close`; nothing of whoever asked for it is in its context."""
        task = self._tasks.create_task(_guarded(work), context=Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, nobody has awaited it
        return task

    async def close(self, *, keep: bool) -> None:
        """Ends every sandbox, or all but claimed and warm ones, which a successor has; then what is done beside."""
        ending, left = set(self._releases), set[SandboxId]()
        for sandbox in self.sandboxes():
            if keep and (sandbox.state in _KEPT or sandbox.comes_back):
                sandbox.on_change = lambda: None  # its agent has not gone away: it is left
                left.add(sandbox.sandbox_id)
                await sandbox.link.close()
            else:
                ending.add(self.let_go(sandbox.sandbox_id, EndReason.SHUTDOWN, "the controller was stopped"))
        await self._ended_in_time(ending)
        for sandbox in self.sandboxes():
            if sandbox.sandbox_id not in left:
                log.error("a sandbox is left behind until the next start", sandbox=sandbox.sandbox_id)
                await sandbox.link.close()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _ended_in_time(self, releases: set[asyncio.Task[None]]) -> None:
        """Waits for what is being removed. What a silent runtime does not remove, the next start does."""
        if not releases:
            return
        _, late = await asyncio.wait(releases, timeout=_STOP_WITHIN)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _want_round(self, sandbox: Sandbox) -> None:
        self._rounds[sandbox.runtime.name].want()


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    """A defect in the care for one sandbox ends neither the others nor the controller."""
    try:
        await work
    except Exception:  # whatever it is: the others have their own
        log.exception("the supervisor's work failed")
