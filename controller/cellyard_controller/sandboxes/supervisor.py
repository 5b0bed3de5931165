"""Gives sandboxes to notebooks. One supervisor a controller; rooms ask it, nobody else touches runtimes.

What is to be done is decided by the scheduler from a snapshot, whenever something has changed; here it is carried out.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from cellyard_controller.clock import steady
from cellyard_controller.config import Config
from cellyard_controller.egress.process import Egress, EgressFailed
from cellyard_controller.egress.targets import Denial
from cellyard_controller.errors import InvalidRequest, Refused
from cellyard_controller.executions.reports import Warned
from cellyard_controller.ids import NotebookKey, SandboxId, TenantName
from cellyard_controller.runtimes import Instance, Runtime, RuntimeFailed, Template
from cellyard_controller.sandboxes import pool, reconciling, records
from cellyard_controller.sandboxes.attesting import Attesting
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.claims import Claim, Listener, out_of_patience
from cellyard_controller.sandboxes.coming_up import bring_in, within
from cellyard_controller.sandboxes.lifecycle import ClaimState, EndReason, SandboxState
from cellyard_controller.sandboxes.link_messages import KernelReport
from cellyard_controller.sandboxes.maker import Maker
from cellyard_controller.sandboxes.sandbox import ClaimRequest, KernelSettings, Sandbox, SandboxGone
from cellyard_controller.sandboxes.scheduler import (
    Bounds,
    ClaimNumber,
    Give,
    Kind,
    Known,
    Make,
    Need,
    Promise,
    Snapshot,
    Stage,
    plan,
)
from cellyard_controller.sandboxes.stock import SandboxView, Stock
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.tenants.quotas import Quotas

_FILES_WITHIN = 60.0
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


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as it stands."""

    kind: Kind
    demand: pool.Demand
    target: int
    warm: int
    making: int
    claimed: int
    claim_rate: float
    """Claims a second."""
    oldest_s: float
    """Age of the oldest warm one."""


class Supervisor:
    """All sandboxes of this controller, and all who want one."""

    def __init__(
        self,
        store: Store,
        runtimes: Mapping[str, Runtime],
        config: Config,
        tasks: asyncio.TaskGroup,
        quotas: Quotas,
    ) -> None:
        self._store = store
        self._runtimes = runtimes
        self._config = config
        self.catalogue = Catalogue(runtimes, config)
        self.egress = Egress(config.network, self._denied)
        self._stock = Stock(store, runtimes, tasks, on_ending=self.egress.close, on_gone=self._gone)
        self.counts = self._stock.counts
        """What happened to sandboxes."""
        self._maker = Maker(store, self.catalogue, config)
        self._quotas = quotas
        quotas.on_change = self._schedule
        capacity = config.capacity
        self._machine = Bounds(capacity.sandboxes, capacity.memory, capacity.cpus)
        self._pools = self.catalogue.pools()
        self.demand: defaultdict[Kind, pool.Demand] = defaultdict(pool.Demand)
        """What has been seen of the claims for each kind."""
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

    # What there is

    def sandboxes(self) -> list[Sandbox]:
        """Every sandbox that has not ended, oldest first."""
        return self._stock.sandboxes()

    def find(self, sandbox_id: SandboxId) -> Sandbox | None:
        """One sandbox that has not ended."""
        return self._stock.find(sandbox_id)

    def watch(self) -> AsyncGenerator[SandboxView | None, None]:
        """Every sandbox as it is, None, and from then on each one whenever it has changed. Raises Unavailable."""
        return self._stock.watch()

    def waiting(self) -> list[str]:
        """What each claim waits for that waits for others to let go: "capacity", "sandboxes", "memory" or "cpu"."""
        return [claim.waited.reason for claim in self._claims.values() if claim.waited is not None]

    def pools(self) -> list[PoolView]:
        """The pools, and how well they do."""
        now, wall = time.monotonic(), steady()
        known = [self._as_known(sandbox) for sandbox in self._stock.sandboxes()]
        targets = self._targets(now, known)
        views = []
        for kind in self._pools:
            by_stage = Counter(each.stage for each in known if each.kind == kind)
            made = [each.since for each in known if each.kind == kind and each.stage is Stage.WARM]
            views.append(
                PoolView(
                    kind,
                    self.demand[kind],
                    target=targets[kind][0],
                    warm=by_stage[Stage.WARM],
                    making=by_stage[Stage.MAKING],
                    claimed=by_stage[Stage.HELD],
                    claim_rate=self.demand[kind].rate(now),
                    oldest_s=wall - min(made) if made else 0.0,
                )
            )
        return views

    async def release(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> None:
        """Ends a sandbox for good. Returns when its container is removed; ended ones are no error."""
        await self._stock.release(sandbox_id, reason, message)

    def let_go(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> asyncio.Task[None]:
        """Releases a sandbox, even where whoever asks for it is gone before that is done."""
        return self._stock.let_go(sandbox_id, reason, message)

    # Starting up and going down

    async def reconcile(self) -> dict[NotebookKey, tuple[EndReason, str]]:
        """Adopts what is known and runs, removes what is ours and unknown.

        Known means that the container's id stands in the store, whatever labels say. Returns why the sandboxes of
        notebooks ended that were claimed and are gone.
        """
        found = {name: await self._listed(runtime) for name, runtime in self._runtimes.items()}
        made = reconciling.plan(await self._store.read(records.living), found)
        for record in made.adopt:
            self._adopt(record)
        for record, reason, _ in made.gone:
            self.counts.ended(record.template, reason)
            await self._stock.note_end(record.sandbox_id, reason)
        for runtime_name, instance_id in made.remove:
            self._stock.remove(runtime_name, instance_id)
        self._stock.watch_over(self._store.controller_id, {name for name, listed in found.items() if listed is None})
        for runtime in self._runtimes.values():
            self._stock.spawn(self._probe(runtime))
        self._stock.spawn(self.egress.run())
        self._stock.spawn(self._stock.ping_all(self._config.sandboxes.ping_interval))
        self._acting = True
        self._stock.spawn(self._tend())
        return {each.notebook: (reason, message) for each, reason, message in made.gone if each.notebook is not None}

    async def stop(self, *, keep_claimed: bool) -> None:
        """Ends everything, or all but claimed sandboxes, which a successor adopts, and claims, which it takes up."""
        self._acting = False
        if not keep_claimed:
            for claim in [each for each in self._claims.values() if each.state is ClaimState.QUEUED]:
                claim.refuse(SandboxGone(EndReason.SHUTDOWN, "the controller was stopped"))
        for making in list(self._making):
            making.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)
        await self._stock.close(keep_claimed=keep_claimed)
        for runtime in self._runtimes.values():
            await runtime.close()

    # Claims

    async def check(self, settings: KernelSettings) -> None:
        """Refuses what cannot be had, before anybody waits for it. Raises Refused."""
        self.catalogue.check_known(settings)
        kind = self.catalogue.kind(settings)
        too_much = self._machine.exceeded(self.catalogue.need(kind))
        if too_much:
            raise InvalidRequest(
                f"a sandbox of the template {kind.template!r} is larger than what this controller may use of the "
                f"machine (capacity.{too_much})",
                template=kind.template,
            )
        if settings.require and not any(
            sandbox.state is SandboxState.WARM and settings.require <= set(sandbox.capabilities)
            for sandbox in self._stock.sandboxes()
            if sandbox.kind == kind
        ):
            await self.catalogue.require(settings)

    async def claim(self, request: ClaimRequest, listener: Listener) -> Sandbox:
        """A sandbox with a ready kernel for this notebook. Raises Refused, SandboxGone; nothing is left then."""
        kind = self.catalogue.kind(request.settings)
        claim = Claim(next(self._numbers), request, kind, self.catalogue.need(kind), listener)
        self._claims[claim.number] = claim
        patience = asyncio.get_running_loop().call_later(request.settings.start_timeout_s, self._out_of_patience, claim)
        try:
            self._schedule()
            self.demand[kind].claimed(time.monotonic(), hit=claim.given is not None)
            self.counts.claims.add(kind.template, "warm" if claim.given is not None else "cold")
            sandbox = await claim.sandbox()
            await self._give(sandbox, request, listener)
        except BaseException as failed:
            if claim.given is not None:
                reason = failed.reason if isinstance(failed, SandboxGone) else EndReason.START_FAILED
                await asyncio.shield(self.let_go(claim.given.sandbox_id, reason, str(failed)))
            raise
        finally:
            patience.cancel()
            if claim.state is ClaimState.QUEUED:
                claim.cancel()
            if self._claims.pop(claim.number, None) is not None:
                self._schedule()
        return sandbox

    async def _give(self, sandbox: Sandbox, request: ClaimRequest, listener: Listener) -> None:
        """A warm sandbox becomes a notebook's: one message to it and a commit, where nothing else is asked for."""
        settings = request.settings
        self.catalogue.check_proven(settings, sandbox)
        if settings.files:
            listener.progress("files", f"bringing {len(settings.files)} files in")
        for name, content in settings.files.items():
            await within(_FILES_WITHIN, bring_in(sandbox, name, content), "a file did not come in")
        if settings.network == "allowlist":
            await self._open_way_out(sandbox)
        sandbox.claimed_at = steady()
        sandbox.link.claim(settings.env, proxy=settings.network == "allowlist")
        await self._store.write(
            lambda c: records.set_claimed(
                c,
                sandbox.sandbox_id,
                request.notebook,
                kernel_type=sandbox.kernel_type,
                env_source=sandbox.env_source,
                capabilities=sandbox.capabilities,
                network=settings.network,
                generation=sandbox.kernel.generation,
                at=sandbox.claimed_at,
            )
        )

    def _out_of_patience(self, claim: Claim) -> None:
        if claim.state is ClaimState.QUEUED and claim.waited is not None:
            claim.refuse(out_of_patience(claim.waited, claim.request.settings.start_timeout_s))

    # Scheduling

    def _schedule(self) -> None:
        """Does what follows from how things are. Called whenever they have changed."""
        if not self._acting:
            return
        found = plan(self._snapshot())
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

    def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        waiting = [claim.as_waiting() for claim in self._claims.values() if claim.state is ClaimState.QUEUED]
        known = [self._as_known(sandbox) for sandbox in self._stock.sandboxes()]
        tenants = {each.tenant for each in waiting} | {each.tenant for each in known if each.tenant is not None}
        return Snapshot(
            now=steady(),
            machine=self._machine,
            waiting=waiting,
            known=known,
            quotas={tenant: self._bounds(tenant) for tenant in tenants},
            served=self._served,
            targets=self._targets(now, known),
            making_at_once=self._config.sandboxes.engine_calls,
            evict_after=self._config.sandboxes.evict_after,
        )

    def _bounds(self, tenant: TenantName) -> Bounds:
        quota = self._quotas.of(tenant)
        weight = self._config.capacity.weights.get(tenant, 1.0)
        return Bounds(quota.sandboxes, quota.memory, quota.cpu, weight)

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

    def _targets(self, now: float, known: Sequence[Known]) -> dict[Kind, tuple[int, Need]]:
        targets = {}
        for kind, bounds in self._pools.items():
            in_use = sum(each.kind == kind and each.stage is Stage.HELD for each in known)
            target = self.demand[kind].target(now, bounds, in_use)
            if self.demand[kind].pause(now):
                there = sum(each.kind == kind and each.stage in (Stage.MAKING, Stage.WARM) for each in known)
                target = min(target, there)
            targets[kind] = target, self.catalogue.need(kind)
        return targets

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
            # Later: the plan that this comes from is still being carried out.
            asyncio.get_running_loop().call_soon(self._not_made, decision.claim, refused)
            return
        self._stock.add(sandbox)
        self.counts.begun(sandbox.template.name)
        self._promised[sandbox.sandbox_id] = decision.claim
        if decision.claim is not None:
            self._serve(self._claims[decision.claim].request.ref.tenant)
        sandbox.on_change = partial(self._warm_changed, sandbox)
        making = self._stock.spawn(self._bring_up(sandbox))
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
            reason = failed.reason if isinstance(failed, SandboxGone) else EndReason.START_FAILED
            if number is None:
                self.demand[kind].failed(time.monotonic())
                log.warning("a sandbox for the pool did not come up", template=kind.template, why=str(failed))
            await self._forget(sandbox, reason, str(failed))
            self._not_made(number, failed)
        except BaseException:
            self._promised.pop(sandbox.sandbox_id, None)
            await self._forget(sandbox, EndReason.SHUTDOWN, "the controller was stopped")
            raise
        else:
            sandbox.move(SandboxState.WARM)
            self.demand[kind].made(time.monotonic() - began)
            self.counts.ready(sandbox.created_at)
            self._warm_changed(sandbox)

    async def _forget(self, sandbox: Sandbox, reason: EndReason, message: str) -> None:
        """Nothing of a sandbox that did not come up is left; it may have ended by itself meanwhile."""
        await asyncio.shield(self.let_go(sandbox.sandbox_id, reason, message))

    def _not_made(self, number: ClaimNumber | None, failed: Exception) -> None:
        claim = self._claims.pop(number, None) if number is not None else None
        if claim is not None and claim.state is ClaimState.QUEUED:
            claim.refuse(failed)
        self._schedule()

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
        self._schedule()

    def _end(self, sandbox_id: SandboxId, reason: EndReason, message: str) -> None:
        self._ending.add(sandbox_id)  # at once: nobody is given it any more
        self.let_go(sandbox_id, reason, message)

    def _evict(self, sandbox_id: SandboxId) -> None:
        self._ending.add(sandbox_id)
        sandbox = self._stock.find(sandbox_id)
        owner = sandbox.owner if sandbox is not None else None

        async def ask() -> None:
            if owner is None or not await owner.evict(sandbox_id):
                self._ending.discard(sandbox_id)  # it is used again
                self._schedule()

        self._stock.spawn(ask())

    def _gone(self, sandbox_id: SandboxId) -> None:
        self._ending.discard(sandbox_id)
        self._promised.pop(sandbox_id, None)
        self._schedule()

    async def _tend(self) -> None:
        """What only time brings about: pools that shrink, sandboxes that get too old or whose image was replaced."""
        while True:
            self._schedule()
            await asyncio.sleep(self._config.pool.review_interval)
            await self._find_outdated()

    async def _find_outdated(self) -> None:
        now = steady()
        makes: dict[tuple[str, Template], str] = {}
        for sandbox in self.sandboxes():
            if sandbox.state is not SandboxState.WARM:
                continue
            if now - sandbox.created_at > self._config.pool.max_age:
                sandbox.outdated = True
            key = (sandbox.runtime.name, sandbox.template)
            try:
                if key not in makes:
                    makes[key] = await sandbox.runtime.makings(sandbox.template)
            except RuntimeFailed:
                continue  # the engine does not answer: what is warm stays so
            sandbox.outdated = sandbox.outdated or makes[key] != sandbox.made_of

    # Inside

    async def _open_way_out(self, sandbox: Sandbox) -> None:
        """Its template's list, from now to its end. Raises SandboxGone."""
        allow = self.catalogue.allow(sandbox.template.name)
        try:
            await self.egress.open(sandbox.sandbox_id, sandbox.link.folder, sandbox.uid, allow)
        except EgressFailed as failed:
            raise SandboxGone(EndReason.START_FAILED, str(failed)) from failed

    def _denied(self, sandbox_id: str, denial: Denial) -> None:
        self.counts.denials.add(denial.reason)
        sandbox = self._stock.find(SandboxId(sandbox_id))
        if sandbox is not None:
            details = {"host": denial.host, "port": str(denial.port), "reason": denial.reason}
            sandbox.warned(Warned("network_denied", str(denial), details))

    def _adopt(self, record: records.SandboxRecord) -> None:
        sandbox = self._maker.sandbox(
            record.sandbox_id,
            self._runtimes[record.runtime],
            self._template_of(record),
            record.uid,
            Kind(record.runtime, record.template, record.network, record.kernel_type, record.env_source),
            created_at=record.created_at,
            committed=record.committed_number,
        )
        sandbox.state = SandboxState.CLAIMED
        sandbox.instance_id = record.instance_id
        sandbox.capabilities = record.capabilities
        sandbox.kernel_type, sandbox.env_source = record.kernel_type, record.env_source
        sandbox.claimed_at = record.claimed_at
        sandbox.kernel = KernelReport("ready", record.generation, "")
        sandbox.gate = partial(Attesting, sandbox, self._maker.spec(sandbox), partial(self._deviates, sandbox))
        self._stock.add(sandbox)
        if record.network == "allowlist":
            self._stock.spawn(self._reopen_way_out(sandbox, self.catalogue.allow(record.template)))
        log.info("adopted", sandbox=record.sandbox_id, instance=record.instance_id)

    def _deviates(self, sandbox: Sandbox, gone: SandboxGone) -> None:
        self.let_go(sandbox.sandbox_id, gone.reason, str(gone))

    def _template_of(self, record: records.SandboxRecord) -> Template:
        if record.asked is not None:
            return record.asked
        known = record.template if record.template in self._config.templates else "default"
        return self.catalogue.template(known, record.network)

    async def _reopen_way_out(self, sandbox: Sandbox, allow: tuple[str, ...]) -> None:
        try:
            await self.egress.open(sandbox.sandbox_id, sandbox.link.folder, sandbox.uid, allow)
        except EgressFailed as failed:  # it stays wanted, and the proxy is started again and again
            log.warning("a sandbox is without its way out", sandbox=sandbox.sandbox_id, why=str(failed))

    async def _listed(self, runtime: Runtime) -> list[Instance] | None:
        try:
            return await runtime.instances(self._store.controller_id)
        except RuntimeFailed as failed:
            log.warning("a runtime does not answer at the start", runtime=runtime.name, why=str(failed))
            return None

    async def _probe(self, runtime: Runtime) -> None:
        """Asks for every template's capabilities before anybody does: a canary takes some seconds."""
        for name in self._config.templates:
            template = self.catalogue.template(name)
            if (await runtime.readiness(template)).ready:
                await runtime.capabilities(template)
