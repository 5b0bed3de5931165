"""A room: the one task that owns a notebook while it is in memory.

Everybody else sends messages to its `inbox`. Those for the document go through `editor`, those of live replicas through
`replication`, those about executions through `runs`, about the kernel through `driving`, and who watches through
`watching`. Behind these stand parts that the room's task alone uses: `pages` is the document, `runner` the executions,
`seating` the kernel and its sandbox, `presence` who is there, and `ledger` the way to the store that all of them use.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog
from cryptography.fernet import InvalidToken
from structlog.contextvars import bind_contextvars, clear_contextvars

from cellyard_controller.changes import Changes
from cellyard_controller.clock import steady
from cellyard_controller.config import Config, EnvironmentsConfig
from cellyard_controller.errors import Moved, Refused, Unavailable
from cellyard_controller.executions import queue as q
from cellyard_controller.executions.counts import Counts
from cellyard_controller.executions.journal import Journal
from cellyard_controller.executions.model import Execution, State
from cellyard_controller.ids import ExecutionId, NotebookKey, NotebookRef
from cellyard_controller.library.serving import Library
from cellyard_controller.notebooks.calling import Calling
from cellyard_controller.notebooks.document import NOTEBOOK_METADATA, Document
from cellyard_controller.notebooks.driving import Driving
from cellyard_controller.notebooks.editor import Editor
from cellyard_controller.notebooks.environment import settled
from cellyard_controller.notebooks.hearing import Hearing
from cellyard_controller.notebooks.inbox import Inbox
from cellyard_controller.notebooks.installing import Installing
from cellyard_controller.notebooks.kernel import Kernel, settings_from_json
from cellyard_controller.notebooks.ledger import Ledger
from cellyard_controller.notebooks.opening import Stored
from cellyard_controller.notebooks.pages import Pages
from cellyard_controller.notebooks.presence import Presence
from cellyard_controller.notebooks.replication import Replication
from cellyard_controller.notebooks.runner import Runner
from cellyard_controller.notebooks.runs import Runs
from cellyard_controller.notebooks.seating import Seating
from cellyard_controller.notebooks.serving import Serving
from cellyard_controller.notebooks.visits import Visits
from cellyard_controller.notebooks.watchers import Watchers
from cellyard_controller.notebooks.watching import Watching
from cellyard_controller.notebooks.widgets import Widgets
from cellyard_controller.replicas.process import ReplicaWorker
from cellyard_controller.sandboxes.lifecycle import EndReason, KernelState
from cellyard_controller.sandboxes.sandbox import KernelSettings, Sandbox
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tracing import Traces

_LONGEST_WAIT = 3600.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RoomView:
    """A notebook in memory, as it is told."""

    ref: NotebookRef
    kernel: KernelState
    running: str
    """The execution that runs, or is about to; "" for none."""
    waiting: int
    """Executions that wait."""


class Room:
    """One notebook in memory: its parts, put together."""

    def __init__(
        self,
        stored: Stored,
        document: Document | Unavailable,
        *,
        changes: Changes,
        store: Store,
        supervisor: Supervisor,
        seal: Seal,
        config: Config,
        replicas: ReplicaWorker,
        library: Library,
        counts: Counts,
        allowances: Allowances,
        audit: Audit,
        traces: Traces | None,
    ) -> None:
        """`document`: it, or why there is none; executions and kernel do without. `changes` hears of `standing`."""
        self._changes = changes
        self._stood: RoomView | None = None
        record = stored.record
        self.key: NotebookKey = record.key
        self.ref: NotebookRef = record.ref
        inbox = self._inbox = Inbox(record.ref.notebook_id)
        self._flush_at: asyncio.TimerHandle | None = None
        self._wake_at: asyncio.TimerHandle | None = None
        self._kernel = Kernel(record.kernel_end)
        if record.kernel_settings is not None:
            try:
                self._kernel.settings = settings_from_json(seal.open(record.kernel_settings))
            except InvalidToken:  # of a copy of the database without its key: the notebook needs none of it
                log.error("a kernel's settings are sealed with another key", notebook_id=record.ref.notebook_id)
        self.watchers = Watchers()
        """Who watches."""
        self.moved: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
        """Done once the room is abandoned, with the reason."""
        self._journal = Journal(record.key, record.ref.tenant, store, config.limits, self.watchers.execution)
        self._presence = Presence(config.sessions.grace)
        self._ledger = Ledger(record.ref, store, self._journal, self._kernel, self._flush_in)
        self._pages = Pages(
            record.key,
            document,
            stored.next_chunk,
            stored.last_by_cell,
            store=store,
            journal=self._journal,
            ledger=self._ledger,
            watchers=self.watchers,
            keep=partial(allowances.keep, record.ref.tenant),
        )
        self.visits = Visits(record.ref, kernel=self._kernel, ask=inbox.ask, post=inbox.post)
        """Files and commands in its sandbox, for everybody."""
        self._calling = Calling(
            journal=self._journal,
            kernel=self._kernel,
            ledger=self._ledger,
            serving=Serving(
                record.ref,
                library=library,
                visits=self.visits,
                allowances=allowances,
                audit=audit,
                ask=inbox.ask,
                spawn=inbox.spawn,
            ),
            grace_s=config.sessions.grace,
            running=self._running,
        )
        self._widgets = Widgets(
            record.key, store=store, kernel=self._kernel, ledger=self._ledger, watchers=self.watchers
        )
        self._runner = Runner(
            record.key,
            record.ref,
            store=store,
            journal=self._journal,
            kernel=self._kernel,
            ledger=self._ledger,
            calling=self._calling,
            widgets=self._widgets,
            counts=counts,
            allowances=allowances,
            traces=traces,
            on_accepted=self.watchers.accepted,
            on_started=self._pages.last_by_cell.__setitem__,
        )
        self.editor = Editor(
            self._pages,
            runner=self._runner,
            kernel=self._kernel,
            ledger=self._ledger,
            widgets=self._widgets,
            ask=inbox.ask,
        )
        """The document, for everybody."""
        hearing = self._hearing = Hearing(
            config=config,
            kernel=self._kernel,
            journal=self._journal,
            ledger=self._ledger,
            runner=self._runner,
            widgets=self._widgets,
            ask=inbox.ask,
            post=inbox.post,
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
            ask=inbox.ask,
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
            ask=inbox.ask,
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
            audit=audit,
            owner=hearing,
            settle=partial(self._settle, config.environments),
            spawn=inbox.spawn,
            ask=inbox.ask,
        )
        hearing.seating = self._seating
        self.runs = Runs(
            self._pages,
            store=store,
            journal=self._journal,
            runner=self._runner,
            seating=self._seating,
            calling=self._calling,
            kernel=self._kernel,
            presence=self._presence,
            ledger=self._ledger,
            inbox=inbox,
        )
        """The executions, for everybody."""
        self.driving = Driving(
            record.ref,
            kernel=self._kernel,
            seating=self._seating,
            hearing=hearing,
            runner=self._runner,
            widgets=self._widgets,
            presence=self._presence,
            calling=self._calling,
            ledger=self._ledger,
            inbox=inbox,
        )
        """The kernel, for everybody."""
        self.installing = Installing(
            record.ref, visits=self.visits, environments=supervisor.environments, ledger=self._ledger, ask=inbox.ask
        )
        """Packages for its kernel, for everybody."""

    async def _settle(self, config: EnvironmentsConfig, settings: KernelSettings) -> KernelSettings:
        try:
            metadata = (await self._pages.current()).metadata(NOTEBOOK_METADATA)
        except Moved:
            raise  # what it lists is not known for the moment: another environment would be a guess
        except Unavailable:
            metadata = None  # a damaged document keeps nobody from running code
        return settled(settings, metadata, config)

    # The task

    async def run(self) -> None:
        """Handles messages one after the other until `stop`."""
        clear_contextvars()  # of whoever came first
        bind_contextvars(tenant=self.ref.tenant, notebook_id=self.ref.notebook_id)
        await self._inbox.handle(self._after_each)

    async def recover(
        self,
        unfinished: list[Execution],
        sandbox: Sandbox | None,
        committed: int,
        lost: tuple[EndReason, str],
        *,
        restored: bool = False,
    ) -> None:
        """After the controller's start: goes on with what is unfinished. Called once, before `run`.

        Without a sandbox whatever was dispatched is lost, for the reason given; what only waited runs in a kernel
        that is yet to come. `restored`: from a backup, since which it may have run elsewhere, so it does not.
        """
        await self._journal.recover(unfinished)
        self._runner.recover(unfinished)
        if sandbox is not None and sandbox.end is not None:  # since it was adopted, and before anybody could be told
            lost, sandbox = sandbox.end, None
        if sandbox is not None and self._kernel.settings is not None:
            self._seating.adopt(sandbox, committed)
        elif restored or any(execution.state is not State.QUEUED for execution in unfinished):
            self._seating.lose(*lost)
            await self._ledger.flush()  # a full disk does not keep the others from going on
        self._seating.start_if_wanted()
        self._calling.recover()
        self._set_wake()

    def stop(self) -> None:
        """Ends `run` after the message in work."""
        self._inbox.stop()

    async def close(self) -> None:
        """Writes what is left, unless it is abandoned, and lets go. `run` has ended before."""
        self.replication.close()
        for timer in (self._flush_at, self._wake_at):
            if timer is not None:
                timer.cancel()
        await self._inbox.close()
        await self._ledger.flush()
        self._runner.leave()

    def abandon(self, why: Refused) -> None:
        """The notebook is not this node's any more: nothing more is done or written, everybody in it is told why, and
        its sandbox goes. What ran there its next owner sees to."""
        self._ledger.abandon(why)
        self._inbox.abandon(why)
        self._seating.abandon(why)
        self._hearing.abandon(why)
        self._journal.end(why)
        self.watchers.end(why)
        self.replication.close(why)
        if not self.moved.done():
            self.moved.set_result(why)

    async def pass_on(self, why: Refused) -> bool:
        """Abandons it where nothing is here but what waits for room on this machine; whether it did."""

        async def work() -> bool:
            if not self._seating.waits_for_room:
                return False
            await self._ledger.commit()
            self.abandon(why)
            return True

        return await self._inbox.ask(work)

    @property
    def standing(self) -> RoomView:
        """How it is, in a few words."""
        return RoomView(self.ref, self._kernel.state, self._running() or "", self.waiting)

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
            and self._inbox.empty
        )

    @property
    def leaves_nothing(self) -> bool:
        """Whether, once it is closed, nothing of the notebook is on this node: no kernel, nothing unwritten."""
        return self._runner.queue.empty and not self._kernel.running and self._ledger.empty

    @property
    def wanted(self) -> bool:
        """Whether somebody is there, or something is to be run."""
        return bool(self.unfinished or self._presence.anybody or self.watchers.anybody or self.replication.anybody)

    @property
    def sessions(self) -> int:
        """Sessions that are there."""
        return self._presence.attached

    @property
    def waiting(self) -> int:
        """Executions that wait for the kernel, or for their turn in it."""
        return len(self._runner.queue.waiting)

    @property
    def unfinished(self) -> int:
        """Executions that have not ended."""
        return self.waiting + (self._runner.queue.running is not None)

    # Inside

    def _running(self) -> ExecutionId | None:
        running = self._runner.queue.running
        return running.execution_id if running is not None else None

    def _flush_in(self, seconds: float) -> None:
        if self._flush_at is None:
            self._flush_at = asyncio.get_running_loop().call_later(seconds, self._inbox.post, self._flush)

    async def _flush(self) -> None:
        self._flush_at = None
        await self._ledger.flush()

    def _after_each(self) -> None:
        if (standing := self.standing) != self._stood:
            self._stood = standing
            self._changes.tell()
        self._seating.withdraw_unless_wanted()
        self._seating.note_use()
        self._calling.end_served()
        if self.watchers.anybody and self._ledger.empty:
            self.watchers.kernel(self._kernel.view())
        self._set_wake()

    def _set_wake(self) -> None:
        """Sets the timer for the next moment at which something is due."""
        due = [q.next_deadline(self._runner.queue), self._seating.deadline(), self._calling.deadline()]
        moments = [moment for moment in due if moment is not None]
        if self._wake_at is not None:
            self._wake_at.cancel()
            self._wake_at = None
        if moments:
            delay = min(max(0.0, min(moments) - steady()) + 0.001, _LONGEST_WAIT)
            self._wake_at = asyncio.get_running_loop().call_later(delay, self._inbox.post, self._on_time)

    async def _on_time(self) -> None:
        now = steady()
        self._seating.not_started(now)
        await self._seating.time_passed(now)
        self._calling.time_passed()
        await self._ledger.flush()
