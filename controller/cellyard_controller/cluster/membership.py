"""A node's lease: taken, renewed by a thread with a connection of its own, known to be lost before others may know."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from cellyard_controller.cluster import leases
from cellyard_controller.cluster.errors import NameTaken
from cellyard_controller.cluster.leases import Held, Identity, Node
from cellyard_controller.cluster.line import Line
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.standing import Standing, Terms, changes_in, standing
from cellyard_controller.store.errors import Fenced, StoreFailed, cause

log = structlog.get_logger()


def uptime() -> float:
    """Seconds that nobody can set, and that go on while the machine sleeps: others' leases run out meanwhile, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Membership:
    """The lease on a node's name, from its taking until it is lost or left. It is never taken again: its process ends,
    or makes another one once its sandboxes are stopped.

    A renewal that was sent at a moment makes the lease last from that moment, not from that of its answer, so this node
    knows of the lease's end before the database says so to others. Properties may be read by any thread.
    """

    def __init__(
        self, line: Line, me: Identity, fence: int, terms: Terms, deadline: float, clock: Callable[[], float]
    ) -> None:
        """See `take`. `deadline`: when the lease ends, by `clock`."""
        self.name, self.endpoint, self.fence, self.terms = me.name, me.endpoint, fence, terms
        self._controller_id, self._line, self._clock = me.controller_id, line, clock
        self._deadline = deadline
        self._lost_because = self._failure = ""
        self._state = self._said = NodeState.SERVING
        """What it does, and what the last renewal said of that."""
        self._report = "{}"
        self._nodes: tuple[Node, ...] = ()
        self._nodes_at = clock()
        self._told = Standing.IN_FORCE
        self._listeners: list[Callable[[Standing], None]] = []
        self._news = asyncio.Event()
        """Set when the nodes were read again; another one each time."""
        self._look = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sent: float | None = None
        """When the renewal was sent that has no answer yet."""
        self._wake = threading.Event()
        self._stopping = False

    @classmethod
    def take(
        cls, engine: Engine, me: Identity, terms: Terms, *, wait_s: float = 0.0, clock: Callable[[], float] = uptime
    ) -> Membership:
        """Takes the name. Blocks; raises NameTaken, StoreFailed.

        `engine`: see `Line`. `wait_s`: for how long a lease that is in force is waited for to run out.
        """
        line, give_up_at = Line(engine), clock() + wait_s
        try:
            while True:
                with line.transaction() as connection:
                    taken = leases.take(connection, me, terms.lease_s)
                if not isinstance(taken, Held):
                    break
                left = taken.node.left_s
                if clock() + left > give_up_at:
                    raise NameTaken(me.name, taken.node.endpoint, left)
                time.sleep(min(left, terms.renew_every_s) + 0.01)
            sent = clock()  # taking the name may have waited for what a predecessor was writing
            made = cls(line, me, taken.fence, terms, sent + terms.lease_s, clock)
            if not made._renew():
                raise NameTaken(me.name, "", terms.lease_s)
        except DBAPIError as failed:
            line.close()
            raise StoreFailed(f"the lease on node {me.name!r} cannot be had: {cause(failed)}") from failed
        except BaseException:
            line.close()
            raise
        log.info("the node's name is taken", node=me.name, fence=taken.fence, endpoint=me.endpoint)
        return made

    @property
    def standing(self) -> Standing:
        """How the lease stands now. Once lost, it stays so."""
        if not self._lost_because:
            now = standing(self._clock(), self._deadline, self.terms)
            if now is not Standing.LOST:
                return now
            failure = f": {self._failure}" if self._failure else ""
            self._lost_because = f"its lease was not renewed in time{failure}"
        return Standing.LOST

    @property
    def in_force(self) -> bool:
        """Whether what this node has is its own."""
        return self.standing is not Standing.LOST

    @property
    def left_s(self) -> float:
        """Seconds until the lease ends, by what this node knows; 0 once it is lost."""
        return max(0.0, self._deadline - self._clock()) if self.in_force else 0.0

    @property
    def may_dispatch(self) -> bool:
        """Whether anything new may be begun."""
        return self.standing is Standing.IN_FORCE

    @property
    def draining(self) -> bool:
        """Whether it takes no more notebooks."""
        return self._state is NodeState.DRAINING

    @property
    def lost_because(self) -> str:
        """Why the lease is lost; empty while it is not."""
        return "" if self.in_force else self._lost_because

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, as they were at the last renewal."""
        return self._nodes

    @property
    def serving(self) -> list[Node]:
        """Those of them that take notebooks, and whose lease is in force as far as is known."""
        age = self.nodes_age_s
        return [node for node in self._nodes if node.state is NodeState.SERVING and node.left_s > age]

    @property
    def nodes_age_s(self) -> float:
        """How long ago that was."""
        return self._clock() - self._nodes_at

    @property
    def now(self) -> float:
        """The time by the clock that it goes by."""
        return self._clock()

    def listen(self, listener: Callable[[Standing], None]) -> None:
        """`listener` is called in the loop of `keep` with each new standing: half, in force again, lost."""
        self._listeners.append(listener)

    async def news(self) -> None:
        """Returns when the nodes have been read again."""
        await self._news.wait()

    def say(self, report: str) -> None:
        """What the node says of itself from the next renewal on, JSON."""
        self._report = report

    def guard(self, connection: Connection) -> None:
        """For the beginning of each transaction that writes: raises Fenced where this node has no lease (any more).

        Where it passes, nobody can take the node over before the transaction's end.
        """
        if not self.in_force:
            raise Fenced(f"node {self.name!r} may write nothing any more: {self._lost_because}")
        if not leases.holds(connection, self.name, self.fence):
            self._hurry()  # the next renewal says whether it is lost, or only late
            raise Fenced(f"node {self.name!r} may write nothing: the database says that it has no lease")

    async def keep(self) -> None:
        """Renews the lease until it is lost, or this is cancelled; tells listeners how it stands."""
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        thread.start()
        try:
            while self._tell() is not Standing.LOST:
                self._look.clear()
                now, sent = self._clock(), self._sent
                wait = changes_in(now, self._deadline, self.terms)
                if sent is not None:
                    stuck = now - sent - self.terms.attempt_s
                    if stuck >= 0:
                        self._line.cut()  # the thread gets an error, and connects anew
                    wait = min(wait, max(-stuck, self.terms.retry_s))
                try:
                    async with asyncio.timeout(wait + 0.001):  # wait_for may lose a cancellation
                        await self._look.wait()
                except TimeoutError:
                    pass
        finally:
            await self._stopped(thread)

    async def again(self) -> None:
        """Renews at once, and returns when the nodes have been read. Raises Fenced. `keep` must be running."""
        news = self._news
        self._hurry()
        await news.wait()
        if not self.in_force:
            raise Fenced(f"node {self.name!r} has no lease: {self._lost_because}")

    async def drain(self) -> None:
        """Takes no more notebooks; others are told. Raises Fenced. `keep` must be running."""
        await self._be(NodeState.DRAINING)

    async def serve(self) -> None:
        """Takes notebooks again. Raises Fenced. `keep` must be running."""
        await self._be(NodeState.SERVING)

    def leave(self, away_s: float | None = None) -> None:
        """Lets go of the name, after `keep` has ended and everything is written. Blocks.

        A successor may take it at once; what this node has waits so long for it, else one lease.
        """
        try:
            if self.in_force:
                with self._line.transaction() as connection:
                    leases.leave(connection, self.name, self.fence, self.terms.lease_s if away_s is None else away_s)
        except (DBAPIError, StoreFailed, OSError) as failed:
            log.warning("the lease is left to run out", node=self.name, why=cause(failed))
        finally:
            self._lost_because = self._lost_because or "it was left"
            self._line.close()

    # In the loop

    def _tell(self) -> Standing:
        now = self.standing
        if now is not self._told:
            self._told = now
            level = log.error if now is Standing.LOST else log.warning if now is Standing.HALF else log.info
            level("the lease has another standing", node=self.name, standing=now.value, why=self._lost_because)
            for listener in self._listeners:
                listener(now)
        return now

    async def _stopped(self, thread: threading.Thread) -> None:
        """However often the caller is cancelled: the connection is the thread's until that has ended."""
        stopping = asyncio.create_task(asyncio.to_thread(self._stop, thread))
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.wait([stopping])
            except asyncio.CancelledError:
                cancelled = True
        stopping.result()
        if cancelled:
            raise asyncio.CancelledError

    def _stop(self, thread: threading.Thread) -> None:
        self._stopping = True
        self._wake.set()
        if self.in_force:
            thread.join(self.terms.attempt_s)
        if thread.is_alive():
            self._line.cut()
        thread.join()

    async def _be(self, state: NodeState) -> None:
        self._state = state
        self._hurry()
        while self._said is not state:
            if not self.in_force:
                raise Fenced(f"node {self.name!r} has no lease: {self._lost_because}")
            await self._news.wait()

    def _heard(self) -> None:
        self._look.set()
        news, self._news = self._news, asyncio.Event()
        news.set()

    # In the thread

    def _hurry(self) -> None:
        self._wake.set()

    def _renew_until_stopped(self) -> None:
        due = self._clock() + self.terms.renew_every_s
        while True:
            self._wake.wait(max(0.0, due - self._clock()))
            self._wake.clear()
            if self._stopping or not self.in_force:
                break
            self._sent = sent = self._clock()
            self._call(self._look.set)  # an answer is waited for from now on
            try:
                renewed = self._renew()
            except (DBAPIError, StoreFailed, OSError) as failed:
                self._failure = cause(failed)
                log.warning("the lease was not renewed", node=self.name, why=self._failure)
                due = self._clock() + self.terms.retry_s
            else:
                if not renewed:
                    break
                due = sent + self.terms.renew_every_s
            finally:
                self._sent = None
            self._call(self._heard)
        self._call(self._heard)

    def _call(self, told: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(told)
        except RuntimeError:
            pass  # the loop is closed: nobody listens any more

    def _renew(self) -> bool:
        """One renewal, and a look at all nodes; False where the lease is somebody else's. Raises DBAPIError."""
        sent, state = self._clock(), self._state
        with self._line.transaction() as connection:
            renewed = leases.renew(connection, self.name, self.fence, self.terms.lease_s, state, self._report)
            found = leases.everybody(connection)
        if not renewed:
            row = next((node for node in found if node.name == self.name), None)
            self._lost_because = self._lost_because or self._why(row)
            return False
        self._failure = ""
        self._deadline, self._said = sent + self.terms.lease_s, state
        self._nodes, self._nodes_at = found, self._clock()
        return True

    def _why(self, now: Node | None) -> str:
        if now is None:
            return "its row was removed"
        if now.state is NodeState.LOST:
            return "another node has taken over what it had, after its lease had run out"
        if now.controller_id == self._controller_id:
            return (
                f"another controller with the same data folder's id has taken its name, at {now.endpoint}: "
                "a successor, or a copy of the data folder, which needs a node.name and a folder of its own"
            )
        return f"another controller has taken its name, at {now.endpoint}"
