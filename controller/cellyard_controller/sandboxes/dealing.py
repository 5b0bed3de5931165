"""Deals sandboxes out: carries out what the scheduler plans, for those who ask and for the pools."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

import structlog

from cellyard_controller.clock import steady
from cellyard_controller.config import Config
from cellyard_controller.errors import Refused
from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.sandboxes.ageing import find_replaced, find_too_old
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.claims import Claim, ClaimView, Listener, out_of_patience
from cellyard_controller.sandboxes.counts import COLD, WARM
from cellyard_controller.sandboxes.lifecycle import ClaimState, EndReason, SandboxState
from cellyard_controller.sandboxes.maker import Maker
from cellyard_controller.sandboxes.others import Others
from cellyard_controller.sandboxes.plans import (
    Bounds,
    ClaimNumber,
    Give,
    Kind,
    Known,
    Make,
    Need,
    Outline,
    Promise,
    Snapshot,
    Stage,
    Wait,
)
from cellyard_controller.sandboxes.pool import Bounds as PoolBounds
from cellyard_controller.sandboxes.pool import PoolView
from cellyard_controller.sandboxes.pools import Pools
from cellyard_controller.sandboxes.sandbox import ClaimRequest, Sandbox, SandboxGone
from cellyard_controller.sandboxes.scheduler import plan
from cellyard_controller.sandboxes.stock import Stock
from cellyard_controller.store import StoreFailed
from cellyard_controller.tenants.quotas import Quotas

_NEW_PACE = 0.2
"""Weight of the last gap in the pace at which claims are served."""
_STAGES = {
    SandboxState.CREATING: Stage.MAKING,
    SandboxState.WARM: Stage.WARM,
    SandboxState.CLAIMED: Stage.HELD,
    SandboxState.STOPPING: Stage.ENDING,
    SandboxState.ENDED: Stage.ENDING,
}

log = structlog.get_logger()


class Dealing:
    """Claims, pools, and what becomes of them."""

    def __init__(
        self, stock: Stock, maker: Maker, catalogue: Catalogue, config: Config, quotas: Quotas, others: Others
    ) -> None:
        self._stock, self._maker, self._catalogue, self._config = stock, maker, catalogue, config
        self._quotas, self._others = quotas, others
        self._waits: Mapping[ClaimNumber, Wait] = {}
        """What those who wait were told last."""
        quotas.on_change = self.schedule
        capacity = config.capacity
        self.machine = Bounds(capacity.sandboxes, capacity.memory, capacity.cpus)
        """What all sandboxes may take."""
        self._pools = Pools(catalogue, self.schedule)
        self._numbers, self._servings = itertools.count(1), itertools.count(1)
        self._claims: dict[ClaimNumber, Claim] = {}
        self._promised: dict[SandboxId, ClaimNumber | None] = {}
        """For whom sandboxes are being made."""
        self._served: dict[TenantName, int] = {}
        self._ending: set[SandboxId] = set()
        """What is to end, and may not have begun to."""
        self._making: set[asyncio.Task[None]] = set()
        self._pace: float | None = None
        self._last_waiter: float | None = None
        self._acting = False
        """From the start's reconciliation until the controller stops."""

    def start(self) -> None:
        """From now on plans are carried out."""
        self._acting = True
        self._stock.spawn(self._tend())

    async def stop(self, *, keep_claims: bool) -> None:
        """Makes nothing any more; with `keep_claims` those who wait are left to a successor, else refused."""
        self._acting = False
        self._pools.stop()
        if not keep_claims:
            for claim in [each for each in self._claims.values() if each.state is ClaimState.QUEUED]:
                claim.refuse(SandboxGone(EndReason.SHUTDOWN, "the controller was stopped"))
        for making in list(self._making):
            making.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)

    def keep_pool(self, kind: Kind, bounds: PoolBounds) -> None:
        """From now on, a pool of sandboxes with this environment, in place of one with another environment."""
        self._pools.keep(kind, bounds)
        self.schedule()

    def take_up(self, sandbox: Sandbox) -> None:
        """A predecessor's warm one: until it is back it counts as being made, so that nobody is given it."""
        self._stock.add(sandbox)
        sandbox.on_change = partial(self._warm_changed, sandbox)
        self._spawn_making(self._bring_back(sandbox))

    # Claims

    def ask(self, request: ClaimRequest, listener: Listener, environment: str = "") -> Claim:
        """Somebody wants a sandbox, with this prepared environment or none; `done` must follow. Raises Refused."""
        kind = self._catalogue.kind(request.settings, environment)
        claim = Claim(next(self._numbers), request, kind, self._catalogue.need(kind), listener)
        self._claims[claim.number] = claim
        loop = asyncio.get_running_loop()
        claim.patience = loop.call_later(request.settings.start_timeout_s, self._out_of_patience, claim)
        self._pools.asked(kind)
        self.schedule()
        found = claim.found = claim.given is not None
        if claim.waited is None:  # else no pool could have had one for it, however large
            self._pools.claimed(kind, hit=found)
            self._stock.counts.claims.add(kind.template, WARM if found else COLD)
        return claim

    def done(self, claim: Claim) -> None:
        """Whoever asked has a sandbox, or has been refused, or does not want one any more."""
        claim.patience.cancel()
        if claim.state is ClaimState.QUEUED:
            claim.cancel()
        if self._claims.pop(claim.number, None) is not None:
            self.schedule()

    def has_warm(self, kind: Kind, capabilities: frozenset[str]) -> bool:
        """Whether one waits for which these are proven."""
        return any(
            sandbox.state is SandboxState.WARM and capabilities <= set(sandbox.capabilities)
            for sandbox in self._stock.sandboxes()
            if sandbox.kind == kind
        )

    def waiting(self) -> list[str]:
        """What each claim waits for that waits for others to let go: "capacity", "sandboxes", "memory" or "cpu"."""
        return [claim.waited.reason for claim in self._claims.values() if claim.waited is not None]

    def queue(self) -> list[ClaimView]:
        """The claims that have no sandbox yet, in the order of asking."""
        return [claim.view() for claim in self._claims.values() if claim.state is ClaimState.QUEUED]

    def pools(self) -> list[PoolView]:
        """The pools, and how well they do."""
        return self._pools.views([self._as_known(sandbox) for sandbox in self._stock.sandboxes()])

    def _out_of_patience(self, claim: Claim) -> None:
        if claim.state is ClaimState.QUEUED and claim.waited is not None:
            claim.refuse(out_of_patience(claim.waited, claim.request.settings.start_timeout_s))

    # Scheduling

    def schedule(self) -> None:
        """Does what follows from how things are. Called whenever they have changed."""
        if not self._acting:
            return
        found = plan(self._snapshot())
        self._waits = found.waits
        for decision in found.decisions:
            if isinstance(decision, Give):
                self._grant(decision)
            elif isinstance(decision, Make):
                self._make(decision)
            elif isinstance(decision, Promise):
                self._promised[decision.sandbox] = decision.claim
            elif decision.evicted:
                self._evict(decision.sandbox)
            else:
                self._end(decision.sandbox, EndReason.EVICTED, "nobody had it, and it was in the way")
        for number, wait in found.waits.items():
            claim = self._claims.get(number)
            if claim is not None and claim.state is ClaimState.QUEUED:
                claim.tell_wait(wait, self._pace)
        self._stock.changes.tell()

    def outline(self) -> Outline:
        """How things are, for others."""
        return Outline(self._snapshot(), self._waits, self._pools.failing())

    def _snapshot(self) -> Snapshot:
        waiting = [claim.as_waiting() for claim in self._claims.values() if claim.state is ClaimState.QUEUED]
        known = [self._as_known(sandbox) for sandbox in self._stock.sandboxes()]
        tenants = {each.tenant for each in waiting} | {each.tenant for each in known if each.tenant is not None}
        return Snapshot(
            now=steady(),
            machine=self.machine,
            waiting=waiting,
            known=known,
            quotas={tenant: self._bounds(tenant) for tenant in tenants},
            served=self._served,
            targets=self._pools.targets(known),
            pausing=self._pools.pausing(),
            making_at_once=self._config.sandboxes.engine_calls,
            evict_after=self._config.sandboxes.evict_after,
            elsewhere={tenant: self._others.elsewhere(tenant) for tenant in tenants},
            together=self._others.together,
        )

    def quota(self, tenant: TenantName) -> Bounds:
        """What a tenant may have in all, on whatever node."""
        quota = self._quotas.of(tenant)
        weight = self._config.capacity.weights.get(tenant, 1.0)
        return Bounds(quota.sandboxes, quota.memory, quota.cpu, weight)

    def _bounds(self, tenant: TenantName) -> Bounds:
        return self._others.bounds(tenant, self.quota(tenant))

    def _as_known(self, sandbox: Sandbox) -> Known:
        template = sandbox.template
        need = Need(1, template.memory_bytes, template.cpus)
        stage = _STAGES[sandbox.state]
        if sandbox.sandbox_id in self._ending:
            stage = Stage.ENDING
        number = self._promised.get(sandbox.sandbox_id)
        tenant = sandbox.notebook.tenant if sandbox.notebook is not None else None
        if stage is Stage.MAKING and number is not None and number in self._claims:
            tenant = self._claims[number].request.ref.tenant
        return Known(
            sandbox.sandbox_id,
            sandbox.kind,
            need,
            stage,
            sandbox.created_at,
            tenant=tenant,
            claim=number,
            unused_since=sandbox.unused_since,
            outdated=sandbox.outdated,
        )

    def _grant(self, decision: Give) -> None:
        claim, sandbox = self._claims.pop(decision.claim), self._stock.find(decision.sandbox)
        assert sandbox is not None, "the plan was made from what there is"
        sandbox.notebook = claim.request.ref
        sandbox.move(SandboxState.CLAIMED)
        self._promised.pop(decision.sandbox, None)
        self._serve(claim.request.ref.tenant)
        if claim.waited is not None:
            now = time.monotonic()
            if self._last_waiter is not None:
                gap = now - self._last_waiter
                self._pace = gap if self._pace is None else self._pace + _NEW_PACE * (gap - self._pace)
            self._last_waiter = now
        claim.grant(sandbox)

    def _serve(self, tenant: TenantName) -> None:
        self._served[tenant] = next(self._servings)

    def _make(self, decision: Make) -> None:
        try:
            sandbox = self._maker.begin(decision.kind, self._stock.sandboxes())
        except Refused as refused:  # a template that is gone
            claim = self._claims.pop(decision.claim, None) if decision.claim is not None else None
            # Later: the plan that this comes from is still being carried out.
            asyncio.get_running_loop().call_soon(self._refuse, claim, refused)
            return
        self._stock.add(sandbox)
        self._stock.counts.begun(sandbox.template.name)
        self._promised[sandbox.sandbox_id] = decision.claim
        if decision.claim is not None:
            self._serve(self._claims[decision.claim].request.ref.tenant)
        sandbox.on_change = partial(self._warm_changed, sandbox)
        self._spawn_making(self._bring_up(sandbox))

    def _spawn_making(self, work: Coroutine[Any, Any, None]) -> None:
        making = self._stock.spawn(work)
        self._making.add(making)
        making.add_done_callback(self._making.discard)

    async def _bring_up(self, sandbox: Sandbox) -> None:
        began = time.monotonic()
        kind = sandbox.kind
        try:
            await self._maker.bring_up(
                sandbox,
                partial(self._report, sandbox),
                # It may have ended before its id was known here, and then nobody else would notice.
                lambda: self._stock.look_after(sandbox),
            )
        except (SandboxGone, Refused, StoreFailed) as failed:
            number = self._promised.pop(sandbox.sandbox_id, None)
            # It is out of the queue at once: it must not get another one while this one is removed.
            claim = self._claims.pop(number, None) if number is not None else None
            reason = failed.reason if isinstance(failed, SandboxGone) else EndReason.START_FAILED
            if claim is None:
                self._pools.failed(kind)
                log.warning("a sandbox for the pool did not come up", template=kind.template, why=str(failed))
            await self._forget(sandbox, reason, str(failed))
            self._refuse(claim, failed)
        except BaseException:
            self._promised.pop(sandbox.sandbox_id, None)
            await self._forget(sandbox, EndReason.SHUTDOWN, "the controller was stopped")
            raise
        else:
            sandbox.move(SandboxState.WARM)
            self._pools.made(kind, time.monotonic() - began)
            self._stock.counts.ready(sandbox.created_at)
            self._warm_changed(sandbox)

    async def _bring_back(self, sandbox: Sandbox) -> None:
        """Cancelled, it leaves the sandbox as it is: whoever stops the controller says what becomes of it."""
        try:
            find_too_old([sandbox], self._config.pool.max_age)
            if sandbox.outdated:
                raise SandboxGone(EndReason.EVICTED, "its template was defined anew, or it is too old")
            await self._maker.bring_back(sandbox)
            await find_replaced([sandbox])
        except (SandboxGone, OSError) as failed:
            log.warning("a warm sandbox does not come back", sandbox=sandbox.sandbox_id, why=str(failed))
            # Whoever was to get it goes on waiting, and gets another one.
            self._promised.pop(sandbox.sandbox_id, None)
            reason = failed.reason if isinstance(failed, SandboxGone) else EndReason.RUNTIME_LOST
            if self._stock.find(sandbox.sandbox_id) is not None:
                self._end(sandbox.sandbox_id, reason, str(failed))
            self.schedule()
        else:
            sandbox.comes_back = False
            sandbox.move(SandboxState.WARM)
            log.info("taken up", sandbox=sandbox.sandbox_id, instance=sandbox.instance_id)
            self._warm_changed(sandbox)

    async def _forget(self, sandbox: Sandbox, reason: EndReason, message: str) -> None:
        """Nothing of a sandbox that did not come up is left; it may have ended by itself meanwhile."""
        await asyncio.shield(self._stock.let_go(sandbox.sandbox_id, reason, message))

    def _refuse(self, claim: Claim | None, failed: Exception) -> None:
        if claim is not None and claim.state is ClaimState.QUEUED:
            claim.refuse(failed)
        self.schedule()

    def _report(self, sandbox: Sandbox, stage: str, message: str) -> None:
        number = self._promised.get(sandbox.sandbox_id)
        claim = self._claims.get(number) if number is not None else None
        if claim is not None:
            claim.tell_progress(stage, message)

    def _warm_changed(self, sandbox: Sandbox) -> None:
        """The link or the kernel of one that nobody has came or went."""
        if sandbox.state is not SandboxState.WARM:
            return
        if sandbox.kernel.state == "dead":
            self._end(sandbox.sandbox_id, EndReason.START_FAILED, "its kernel died while nobody had it")
        elif not sandbox.link.up:
            self._end(sandbox.sandbox_id, EndReason.RUNTIME_LOST, "its agent went away while nobody had it")
        self.schedule()

    def _end(self, sandbox_id: SandboxId, reason: EndReason, message: str) -> None:
        self._ending.add(sandbox_id)  # at once: nobody is given it any more
        self._stock.let_go(sandbox_id, reason, message)

    def _evict(self, sandbox_id: SandboxId) -> None:
        self._ending.add(sandbox_id)
        sandbox = self._stock.find(sandbox_id)
        owner = sandbox.owner if sandbox is not None else None

        async def ask() -> None:
            if owner is None or not await owner.evict(sandbox_id, "it was idle, and somebody else needed the room"):
                self._ending.discard(sandbox_id)  # it is used again
                self.schedule()

        self._stock.spawn(ask())

    def gone(self, sandbox_id: SandboxId) -> None:
        """A sandbox takes no room any more."""
        self._ending.discard(sandbox_id)
        self._promised.pop(sandbox_id, None)
        self.schedule()

    async def _tend(self) -> None:
        """What only time brings about: pools that shrink, sandboxes that get too old or whose image was replaced."""
        while True:
            self.schedule()
            await asyncio.sleep(self._config.pool.review_interval)
            warm = [sandbox for sandbox in self._stock.sandboxes() if sandbox.state is SandboxState.WARM]
            find_too_old(warm, self._config.pool.max_age)
            await find_replaced(warm)
