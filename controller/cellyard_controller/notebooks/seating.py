"""A room's kernel and sandbox: claimed when needed, heard, restarted, and let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from cellyard_controller.clock import steady
from cellyard_controller.environments.making import STAGE
from cellyard_controller.errors import CapabilityUnavailable, KernelMismatch, NoKernel, Refused
from cellyard_controller.executions import queue as q
from cellyard_controller.executions.journal import Row
from cellyard_controller.ids import NotebookKey, NotebookRef, SandboxId
from cellyard_controller.notebooks import records
from cellyard_controller.notebooks.calling import Calling
from cellyard_controller.notebooks.environment import Making
from cellyard_controller.notebooks.kernel import Kernel, KernelView, settings_to_json
from cellyard_controller.notebooks.ledger import Change, Ledger
from cellyard_controller.notebooks.runner import Runner
from cellyard_controller.sandboxes import endings
from cellyard_controller.sandboxes import records as sandbox_records
from cellyard_controller.sandboxes.claims import Listener, Waited
from cellyard_controller.sandboxes.lifecycle import EndReason, KernelState
from cellyard_controller.sandboxes.link_messages import AgentHello, KernelReport
from cellyard_controller.sandboxes.sandbox import ClaimRequest, KernelSettings, Sandbox, SandboxGone, SandboxOwner
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import StoreFailed
from cellyard_controller.store.errors import refusal
from cellyard_controller.store.requests import UNNAMED, Request
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tracing import ExecutionTrace

log = structlog.get_logger()

News = tuple[str, str] | KernelView | Exception
"""Progress (stage, message) of a start, or its end."""


_TAKEN = frozenset({EndReason.EVICTED, EndReason.IDLE, EndReason.TTL, EndReason.RUNTIME_LOST, EndReason.NODE_LOST})
"""How kernels end without anybody who used them knowing at once."""


class Seating:
    """The kernel of one room. Used by the room's task alone; claims run beside it and report back."""

    def __init__(
        self,
        notebook: NotebookKey,
        ref: NotebookRef,
        *,
        supervisor: Supervisor,
        seal: Seal,
        kernel: Kernel,
        runner: Runner,
        ledger: Ledger,
        calling: Calling,
        audit: Audit,
        owner: SandboxOwner,
        settle: Callable[[KernelSettings], Awaitable[KernelSettings]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        ask: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        """`owner` hears the sandbox's link; `settle` fills in what the client has left to the notebook; `spawn` runs
        work beside the room, `ask` brings it back into its task."""
        self._notebook, self._ref = notebook, ref
        self._supervisor, self._seal = supervisor, seal
        self._kernel, self._runner, self._ledger, self._calling = kernel, runner, ledger, calling
        self._audit, self._owner, self._spawn, self._ask = audit, owner, spawn, ask
        self._settle = settle
        self._claim: asyncio.Task[None] | None = None
        self._waited: Waited | None = None
        """Why the claim waits for others to let go, while it does."""
        self._making = Making()
        self._watching: set[asyncio.Queue[News]] = set()
        self._traced: ExecutionTrace | None = None
        """Of the execution that the claim is for, where it is for one."""
        self._hello = AgentHello(KernelReport("none", 0, ""), frozenset(), 0)
        self._hello_pending = False

    @property
    def claiming(self) -> bool:
        """Whether a sandbox is on its way."""
        return self._claim is not None

    @property
    def waits_for_room(self) -> bool:
        """Whether a sandbox is wanted, for which this machine has no room."""
        return self._claim is not None and self._waited is not None and self._waited.for_room

    # Wanting a kernel

    async def choose(self, settings: KernelSettings, change: Change) -> None:
        """Notes which kernel is to be started where none runs; refuses what does not fit the one that does.

        Raises KernelMismatch, CapabilityUnavailable, InvalidRequest, Moved.
        """
        if self._kernel.running:
            self._check_fits(settings)
            return
        settings = await self._settle(settings)
        await self._supervisor.check(settings)
        sealed = self._seal.close(settings_to_json(settings))
        change.rows.append(partial(records.change, key=self._notebook, kernel_settings=sealed))
        change.done.append(partial(setattr, self._kernel, "settings", settings))

    def watch(self, news: asyncio.Queue[News]) -> None:
        """Sends what happens to the kernel's start here, until `unwatch`."""
        self._watching.add(news)

    def unwatch(self, news: asyncio.Queue[News]) -> None:
        """Sends nothing more."""
        self._watching.discard(news)

    def start(self) -> None:
        """Claims a sandbox where none is there or on its way; those who watch hear how it ends."""
        if self._kernel.takes_cells:
            self._tell(self._kernel.view())
        elif not self._kernel.running:
            assert self._kernel.settings is not None
            self._kernel.move(KernelState.STARTING)
            self._making = Making()
            request = ClaimRequest(self._notebook, self._ref, self._kernel.settings)
            self._traced = self._runner.first_traced
            if self._traced is not None:
                self._traced.claiming()
            self._claim = self._spawn(self._claim_sandbox(request))

    def start_if_wanted(self) -> None:
        """Claims a sandbox where cells wait for one."""
        if self._runner.queue.waiting and not self._kernel.running:
            self.start()

    def adopt(self, sandbox: Sandbox, committed: int) -> None:
        """After the controller's restart: the notebook still has this sandbox."""
        self._kernel.seat(sandbox, committed=committed)
        self._kernel.state = KernelState.BUSY if self._runner.queue.running else KernelState.IDLE
        sandbox.hand_over(self._owner)

    # Letting go

    def lose(self, reason: EndReason, message: str, *, failure: Exception | None = None) -> None:
        """Kernel and sandbox are gone, or go now; everything that needed them ends.

        `failure`: what those hear who wait for a kernel, if it is more than that there is none.
        """
        sandbox = self._kernel.sandbox
        if self._kernel.running:
            self._kernel.unseat(KernelState.NONE if reason is EndReason.SHUTDOWN else KernelState.DEAD, reason)
            self._tell(failure or NoKernel(message))
        self._runner.lose_kernel(reason, message)
        self._ledger.kept.rows.append(partial(records.change, key=self._notebook, kernel_end=str(reason)))
        if sandbox is not None:
            self._note("sandbox.ended", sandbox, reason=str(reason))
            sandbox.take_back()
        if sandbox is not None and sandbox.end is None:
            self._supervisor.let_go(sandbox.sandbox_id, reason, message)

    async def shut_down(self, reason: EndReason, message: str) -> None:
        """Ends the kernel, or its start; without one it does nothing."""
        if self._claim is not None:
            self._claim.cancel()
            self._claim = self._waited = None
            self._tell(NoKernel("the kernel was shut down while it started"))
        if self._kernel.running or not self._runner.queue.empty:
            self.lose(reason, message)
            await self._ledger.commit()
        elif self._kernel.state is KernelState.DEAD:
            self._kernel.move(KernelState.NONE)

    async def restart(self, request: Request) -> None:
        """Asks for a fresh kernel in the same sandbox, once for a request. Raises NoKernel."""
        sandbox = self._kernel.sandbox
        if sandbox is None or not self._kernel.takes_cells:
            raise NoKernel(f"notebook {self._ref.notebook_id!r} has no kernel to restart")
        self._kernel.move(KernelState.RESTARTING)
        self._runner.lose_kernel(EndReason.KERNEL_RESTARTED, "the kernel was restarted")
        await self._ledger.commit_done(request)
        sandbox.link.restart_kernel(self._kernel.generation)

    def abandon(self, why: Refused) -> None:
        """The notebook is another node's: the sandbox goes, and nothing is noted, for that is the other's to do.

        The one thing here that may be called beside the room's task, which may hang on a store that is away.
        """
        if self._claim is not None:
            self._claim.cancel()
        self._tell(why)
        sandbox = self._kernel.sandbox
        if sandbox is not None:
            sandbox.take_back()
            self._supervisor.let_go(sandbox.sandbox_id, EndReason.NODE_LOST, str(why))

    def not_started(self, now: float) -> None:
        """Ends what has waited for its start long enough. What an environment takes to be made does not count."""
        self._postpone(now)
        if self._waited is None:
            self._runner.take(q.time_passed(self._runner.queue, now, "start_timeout"), "it did not start in time")
        else:
            reason, message = EndReason.QUOTA_EXCEEDED, f"it did not start in time: {self._waited}"
            self._runner.take(q.time_passed(self._runner.queue, now, reason), message)

    def withdraw_unless_wanted(self) -> None:
        """A claim that only waits for others to let go leaves the queue when nobody is left who wants a kernel."""
        if self._waited is not None and self._claim is not None and self._runner.queue.empty and not self._watching:
            self._claim.cancel()
            self._claim = self._waited = None
            self._kernel.move(KernelState.NONE)

    async def watcher_left(self) -> None:
        """One less waits for the kernel's start."""
        self.withdraw_unless_wanted()

    def note_use(self) -> None:
        """Tells the supervisor since when the sandbox is not used."""
        kernel = self._kernel
        if kernel.sandbox is not None:
            idle = kernel.state is KernelState.IDLE and not kernel.visits and self._runner.queue.empty
            kernel.sandbox.unused_since = kernel.last_used if idle else None

    async def evict(self, sandbox_id: SandboxId, why: str) -> bool:
        """Lets the sandbox go where it is idle still; False where it is not."""
        self.note_use()
        sandbox = self._kernel.sandbox
        if sandbox is None or sandbox.sandbox_id != sandbox_id or sandbox.unused_since is None:
            return False
        self.lose(EndReason.EVICTED, why)
        await self._ledger.flush()
        return True

    def extend(self, ttl_s: float | None, change: Change) -> None:
        """The kernel lives this long from now, or as long again as it was meant to at first. Raises NoKernel."""
        settings, sandbox = self._kernel.settings, self._kernel.sandbox
        if settings is None or sandbox is None:
            raise NoKernel(f"notebook {self._ref.notebook_id!r} has no kernel to extend")
        lives = steady() - sandbox.claimed_at + (settings.extension_s if ttl_s is None else ttl_s)
        longer = replace(settings, ttl_s=lives, first_ttl_s=settings.extension_s)
        sealed = self._seal.close(settings_to_json(longer))
        change.rows.append(partial(records.change, key=self._notebook, kernel_settings=sealed))
        change.done.append(partial(setattr, self._kernel, "settings", longer))

    def deadline(self) -> float | None:
        """When `time_passed` has something to do at the earliest."""
        moments = (self._kernel.deadline(), self._runner.overdue(), self._take_up_deadline())
        return min((moment for moment in moments if moment is not None), default=None)

    async def time_passed(self, now: float) -> None:
        """Ends a kernel whose idle time or life is over, or whose agent does not keep time.

        One that does not take up what it was sent is restarted.
        """
        settings, sandbox = self._kernel.settings, self._kernel.sandbox
        if settings is None or sandbox is None:
            return
        due, overdue, take_up = self._kernel.deadline(), self._runner.overdue(), self._take_up_deadline()
        if sandbox.claimed_at + settings.ttl_s <= now:
            self.lose(EndReason.TTL, endings.life_over(settings.ttl_s))
        elif due is not None and due <= now:
            self.lose(EndReason.IDLE, endings.idle(settings.idle_timeout_s))
        elif overdue is not None and overdue <= now:
            self.lose(EndReason.RUNTIME_LOST, "the sandbox does not keep the cell's timeout")
        elif take_up is not None and take_up <= now:
            self._runner.take(q.not_taken_up(self._runner.queue))
            await self.restart(UNNAMED)

    # Hearing the agent

    def link_up(self, hello: AgentHello) -> int:
        """The agent has connected; returns the number up to which its reports are committed."""
        self._hello, self._hello_pending = hello, True
        return self._kernel.committed

    async def link_ready(self) -> None:
        """The agent is greeted: what it may have missed is said again."""
        sandbox, settings, running = self._kernel.sandbox, self._kernel.settings, self._runner.queue.running
        if sandbox is None or settings is None:
            return
        # A controller that died right after it had given the sandbox away may not have said so.
        sandbox.link.claim(settings.env, proxy=settings.network == "allowlist")
        if self._kernel.state is KernelState.RESTARTING:
            sandbox.link.restart_kernel(self._kernel.generation)
        never_got_it = running is not None and running.execution_id not in self._hello.held
        if never_got_it and self._hello.kernel.generation > self._kernel.generation:
            # A cell does not run in a later kernel than the one it was meant for.
            self._runner.lose_kernel(EndReason.KERNEL_RESTARTED, "the kernel was restarted")
            await self._ledger.flush()
        self._runner.send_again(self._hello.held)
        await self.caught_up()

    async def caught_up(self) -> None:
        """Takes the Hello's word on the kernel in, once everything that happened before it is taken in too."""
        if self._hello_pending and self._kernel.received >= self._hello.last_number:
            self._hello_pending = False
            await self.kernel_report(self._hello.kernel)
            await self._calling.resend(self._hello.open_calls)

    async def kernel_report(self, report: KernelReport) -> None:
        """The agent says how its kernel is."""
        kernel = self._kernel
        if kernel.sandbox is None:
            return
        if report.state == "dead":
            reason = EndReason.OOM if endings.reason_of(report.reason) == EndReason.OOM else EndReason.EXIT
            message = endings.kernel_died(report.reason, kernel.sandbox.template)
            self.lose(reason, message)
            await self._ledger.flush()
        elif report.state == "ready":
            restarted = report.generation > kernel.generation
            if restarted:
                kernel.generation = report.generation
                name, count = kernel.sandbox.sandbox_id, report.generation
                self._ledger.kept.rows.append(partial(sandbox_records.change, sandbox_id=name, generation=count))
            if kernel.state is KernelState.RESTARTING:
                if not restarted:
                    return  # still the old one
                kernel.move(KernelState.IDLE)
            self._runner.take(q.kernel_ready(self._runner.queue))
            await self._ledger.flush()
            self._tell(kernel.view())

    # Inside

    def _take_up_deadline(self) -> float | None:
        return q.take_up_deadline(self._runner.queue) if self._kernel.takes_cells else None

    def _check_fits(self, settings: KernelSettings) -> None:
        """Nobody joins another kernel, or less isolation, than they asked for."""
        running = self._kernel.settings
        assert running is not None
        if settings.kernel_type != running.kernel_type:
            raise KernelMismatch(
                f"a {running.kernel_type} kernel runs for notebook {self._ref.notebook_id!r}, "
                f"not the {settings.kernel_type} kernel that was asked for"
            )
        catalogue, sandbox = self._supervisor.catalogue, self._kernel.sandbox
        if sandbox is not None:
            running = replace(running, template=sandbox.template.name)  # with the Python that was found to fit
        for name in ("runtime", "template", "network"):
            wanted, has = getattr(settings, name), getattr(running, name)
            same = catalogue.same_template(wanted, has) if name == "template" else wanted == has
            if name in settings.named and not same:
                raise KernelMismatch(f"the running kernel has the {name} {has!r}, not {wanted!r}; shut it down first")
        if sandbox is not None:
            catalogue.check_proven(settings, sandbox)

    async def _claim_sandbox(self, request: ClaimRequest) -> None:
        mine = asyncio.current_task()
        try:
            sandbox = await self._supervisor.claim(request, Listener(self._report_progress, self._report_wait))
        except SandboxGone as gone:
            failure = CapabilityUnavailable(f"no kernel could be started: {gone}", end_reason=str(gone.reason))
            await self._ask(partial(self._not_granted, mine, gone.reason, failure))
        except Refused as refused:
            known = refused.reason.lower() in EndReason.__members__.values()
            reason = EndReason(refused.reason.lower()) if known else EndReason.START_FAILED
            await self._ask(partial(self._not_granted, mine, reason, refused))
        except StoreFailed as failed:
            await self._ask(partial(self._not_granted, mine, EndReason.START_FAILED, refusal(failed)))
        else:
            try:
                await self._ask(partial(self._granted, mine, request, sandbox))
            except BaseException:  # the room has gone meanwhile
                self._supervisor.let_go(sandbox.sandbox_id, EndReason.SHUTDOWN, "nobody wants it any more")
                raise

    async def _granted(self, claim: asyncio.Task[None] | None, request: ClaimRequest, sandbox: Sandbox) -> None:
        if claim is not self._claim:
            self._supervisor.let_go(sandbox.sandbox_id, EndReason.SHUTDOWN, "nobody wants it any more")
            return
        self._claim = self._waited = None
        if self._traced is not None:
            self._traced.claimed(sandbox.sandbox_id)
        before = self._kernel.end_reason
        self._kernel.seat(sandbox)
        self._kernel.move(KernelState.IDLE)
        self._note("sandbox.claimed", sandbox)
        log.info("sandbox claimed", sandbox=sandbox.sandbox_id)
        self._ledger.kept.rows.append(self._as_claimed(request, sandbox))
        sandbox.hand_over(self._owner)
        if sandbox.end is not None:  # it died before it was handed over
            self.lose(*sandbox.end)
        elif sandbox.kernel.state == "dead":
            self.lose(EndReason.EXIT, endings.kernel_died(sandbox.kernel.reason, sandbox.template))
        else:
            if before in _TAKEN:
                self._runner.warn_first(endings.fresh_kernel(before))
            self._postpone(steady())
            self._runner.take(q.kernel_ready(self._runner.queue))
        await self._ledger.flush()
        self._tell(self._kernel.view())

    def _as_claimed(self, request: ClaimRequest, sandbox: Sandbox) -> Row:
        return partial(
            sandbox_records.set_claimed,
            sandbox_id=sandbox.sandbox_id,
            notebook=request.notebook,
            kernel_type=sandbox.kernel_type,
            env_source=sandbox.env_source,
            capabilities=sandbox.capabilities,
            network=request.settings.network,
            generation=sandbox.kernel.generation,
            at=sandbox.claimed_at,
        )

    async def _not_granted(self, claim: asyncio.Task[None] | None, reason: EndReason, failure: Exception) -> None:
        if claim is self._claim:
            self._claim = self._waited = None
            self.lose(reason, str(failure), failure=failure)
            await self._ledger.flush()

    def _report_wait(self, waited: Waited) -> None:
        self._waited = waited
        if self._traced is not None:
            self._traced.waits(waited.reason)
        self._making.told(steady(), False)
        self._tell(("waiting", f"{waited}: number {waited.position + 1} in the queue"))
        self._runner.tell_wait(waited.reason, waited.position, waited.eta_s)

    def _report_progress(self, stage: str, message: str) -> None:
        self._waited = None
        if self._traced is not None:
            self._traced.stage(stage)
        self._making.told(steady(), stage == STAGE)
        self._tell((stage, message))
        self._runner.tell_progress(stage, message)

    def _postpone(self, now: float) -> None:
        """Deadlines move by as long as an environment was being made."""
        owed = self._making.owed(now)
        if owed:
            self._runner.postpone(owed)

    def _note(self, action: str, sandbox: Sandbox, **more: str) -> None:
        about = {"notebook_id": self._ref.notebook_id, "sandbox_id": sandbox.sandbox_id}
        self._audit.note(action, tenant=self._ref.tenant, about=about, **more)

    def _tell(self, news: News) -> None:
        for watching in self._watching:
            watching.put_nowait(news)
