"""Gives sandboxes to notebooks. One supervisor a controller; rooms ask it, nobody else touches runtimes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial

import structlog

from cellyard_controller import templates
from cellyard_controller.clock import steady
from cellyard_controller.config import Config
from cellyard_controller.egress.process import Egress, EgressFailed
from cellyard_controller.egress.targets import Denial
from cellyard_controller.environments.making import Environments
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.executions.reports import Warned
from cellyard_controller.ids import NotebookKey, NotebookRef, SandboxId, TenantName
from cellyard_controller.runtimes import Instance, Runtime, RuntimeFailed, Template
from cellyard_controller.sandboxes import reconciling, records
from cellyard_controller.sandboxes.attesting import Attesting
from cellyard_controller.sandboxes.catalogue import CONDA_PREWARMED, Catalogue
from cellyard_controller.sandboxes.claims import ClaimView, Listener
from cellyard_controller.sandboxes.coming_up import bring_in, within
from cellyard_controller.sandboxes.conda_pools import NOBODY, keep_conda_pool
from cellyard_controller.sandboxes.dealing import Dealing
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.link import LinkOwner
from cellyard_controller.sandboxes.link_messages import KernelReport
from cellyard_controller.sandboxes.maker import Maker
from cellyard_controller.sandboxes.others import Nobody, Others
from cellyard_controller.sandboxes.plans import Bounds, Kind, Outline
from cellyard_controller.sandboxes.pool import PoolView
from cellyard_controller.sandboxes.pythons import Pythons
from cellyard_controller.sandboxes.sandbox import ClaimRequest, KernelSettings, Sandbox, SandboxGone
from cellyard_controller.sandboxes.stock import SandboxView, Stock
from cellyard_controller.store import Store
from cellyard_controller.tenants.quotas import Quotas

_FILES_WITHIN = 60.0

log = structlog.get_logger()


class Supervisor:
    """All sandboxes of this controller, and all who want one."""

    def __init__(
        self,
        store: Store,
        runtimes: Mapping[str, Runtime],
        config: Config,
        tasks: asyncio.TaskGroup,
        quotas: Quotas,
        others: Others | None = None,
    ) -> None:
        """`others`: the other nodes, where several share the store."""
        self._store = store
        self._runtimes = runtimes
        self._config = config
        self.catalogue = Catalogue(runtimes, config)
        self.egress = Egress(config.network, self._denied)
        folder, workshop = config.data / "environments", Workshop(config.data / "build", store.controller_id)
        self.environments = Environments(config.environments, folder, workshop)
        self._pythons = Pythons(self.catalogue, workshop)
        self._stock = Stock(store, runtimes, tasks, on_ending=self.egress.close, on_gone=self._gone)
        self.counts = self._stock.counts
        """What happened to sandboxes."""
        self.changes = self._stock.changes
        """Of sandboxes, pools and claims."""
        self._maker = Maker(store, self.catalogue, config, self.environments)
        self._dealing = Dealing(self._stock, self._maker, self.catalogue, config, quotas, others or Nobody())

    # What there is

    def sandboxes(self) -> list[Sandbox]:
        """Every sandbox that has not ended, oldest first."""
        return self._stock.sandboxes()

    def find(self, sandbox_id: SandboxId) -> Sandbox | None:
        """One sandbox that has not ended."""
        return self._stock.find(sandbox_id)

    async def views(self) -> list[SandboxView]:
        """Every sandbox that has not ended, oldest first: of this node, and then of those that share the store."""
        node = self._store.node
        here = [SandboxView.of(each, node) for each in self._stock.sandboxes()]
        if not node:
            return here
        others = await self._store.read(partial(records.elsewhere, node=node))
        return here + [_view(where, record, ref) for where, record, ref in others]

    def watch(self) -> AsyncGenerator[SandboxView | None, None]:
        """Every sandbox as it is, None, and from then on each one whenever it has changed. Raises Unavailable."""
        return self._stock.watch()

    def waiting(self) -> list[str]:
        """What each claim waits for that waits for others to let go: "capacity", "sandboxes", "memory" or "cpu"."""
        return self._dealing.waiting()

    def queue(self) -> list[ClaimView]:
        """The claims that have no sandbox yet, in the order of asking."""
        return self._dealing.queue()

    def pools(self) -> list[PoolView]:
        """The pools, and how well they do."""
        return self._dealing.pools()

    async def release(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> None:
        """Ends a sandbox for good. Returns when its container is removed; ended ones are no error."""
        await self._stock.release(sandbox_id, reason, message)

    def let_go(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> asyncio.Task[None]:
        """Releases a sandbox, even where whoever asks for it is gone before that is done."""
        return self._stock.let_go(sandbox_id, reason, message)

    def outline(self) -> Outline:
        """How things are, for others."""
        return self._dealing.outline()

    def quota(self, tenant: TenantName) -> Bounds:
        """What a tenant may have in all, on whatever node."""
        return self._dealing.quota(tenant)

    def schedule(self) -> None:
        """Looks again at who gets what: something changed elsewhere."""
        self._dealing.schedule()

    def extend_tenure(self, until: float, begin_until: float) -> None:
        """See Tenure."""
        self._maker.tenure.extend(until, begin_until)
        for sandbox in self._stock.sandboxes():
            sandbox.link.tell_tenure()

    # Starting up and going down

    async def reconcile(self) -> dict[NotebookKey, tuple[EndReason, str]]:
        """Adopts what is known and runs, takes warm ones up again, removes what is ours and unknown.

        Known means that the container's id stands in the store, whatever labels say. Returns why the sandboxes of
        notebooks ended that were claimed and are gone.
        """
        found = {name: await self._listed(runtime) for name, runtime in self._runtimes.items()}
        living = await self._store.read(partial(records.living, node=self._store.node))
        await asyncio.to_thread(self.environments.open, {record.sandbox_id for record in living})
        made = reconciling.plan(living, found)
        for record in made.adopt:
            self._adopt(record)
        for record in made.take_up:
            self._take_up(record)
        for record, reason, _ in made.gone:
            self.counts.ended(record.template, reason)
            await self._stock.note_end(record.sandbox_id, reason)
        for runtime_name, instance_id in made.remove:
            self._stock.remove(runtime_name, instance_id)
        self._stock.watch_over(self._store.controller_id, {name for name, listed in found.items() if listed is None})
        for runtime in self._runtimes.values():
            self._stock.spawn(self._probe(runtime))
        self._stock.spawn(self.egress.run())
        self._stock.spawn(self._tidy_environments())
        for kind, bounds in self.catalogue.conda_pools().items():
            keep = partial(self._dealing.keep_pool, bounds=bounds)
            for record in made.take_up:  # until its environment is looked for, the pool is what it was
                known = self._kind(record)
                if replace(known, environment="") == kind:
                    keep(known)
            settings = self._config.environments
            self._stock.spawn(keep_conda_pool(kind, settings, self.catalogue, self.environments, keep))
        self._stock.spawn(self._stock.ping_all(self._config.sandboxes.ping_interval))
        self._dealing.start()
        return {each.notebook: (reason, message) for each, reason, message in made.gone if each.notebook is not None}

    async def stop(self, *, keep: bool) -> None:
        """Ends everything, or all but claims and sandboxes, claimed and warm, which a successor takes up."""
        await self._dealing.stop(keep_claims=keep)
        await self.environments.close()
        await self._stock.close(keep=keep)
        for runtime in self._runtimes.values():
            await runtime.close()

    # Claims

    async def check(self, settings: KernelSettings) -> None:
        """Refuses what cannot be had, before anybody waits for it. Raises Refused."""
        self.catalogue.check_known(settings)
        kind = self.catalogue.kind(settings)
        too_much = self._dealing.machine.exceeded(self.catalogue.need(kind))
        if too_much:
            raise InvalidRequest(
                f"a sandbox of the template {kind.template!r} is larger than what this controller may use of the "
                f"machine (capacity.{too_much})",
                template=kind.template,
            )
        if settings.require and not self._dealing.has_warm(kind, settings.require):
            await self.catalogue.require(settings)

    async def claim(self, request: ClaimRequest, listener: Listener) -> Sandbox:
        """A sandbox with a ready kernel for this notebook. Raises Refused, SandboxGone; nothing is left then.

        Its agent is told. To store whose it is, before anything is run in it, is left to who asks: it has something
        to commit with that.
        """
        settings = await self._pythons.fitting(request.settings)
        request = replace(request, settings=settings)
        if settings.definition is None:
            return await self._claim(request, listener, "")
        runtime = self.catalogue.runtime(settings.runtime)
        template = self.catalogue.template(settings.template)
        tenant, report = request.ref.tenant, listener.progress
        if settings.env_source == CONDA_PREWARMED:
            tenant = NOBODY
        async with self.environments.held(tenant, settings.definition, runtime, template, report) as environment:
            return await self._claim(request, listener, environment)

    async def _claim(self, request: ClaimRequest, listener: Listener, environment: str) -> Sandbox:
        claim = self._dealing.ask(request, listener, environment)
        try:
            sandbox = await claim.sandbox()
            await self._give(sandbox, request, listener)
        except BaseException as failed:
            if claim.given is not None:
                reason = failed.reason if isinstance(failed, SandboxGone) else EndReason.START_FAILED
                await asyncio.shield(self.let_go(claim.given.sandbox_id, reason, str(failed)))
            raise
        finally:
            self._dealing.done(claim)
        self.counts.claimed(claim.asked_at, found=claim.found)
        return sandbox

    async def _give(self, sandbox: Sandbox, request: ClaimRequest, listener: Listener) -> None:
        """A warm sandbox becomes a notebook's: one message to it, where nothing else is asked for."""
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

    # Inside

    def _gone(self, sandbox_id: SandboxId) -> None:
        self.environments.unuse(sandbox_id)
        self._dealing.gone(sandbox_id)

    async def _tidy_environments(self) -> None:
        while True:
            try:
                await self.environments.tidy()
            except OSError as failed:
                log.warning("environments are not tidied up", why=str(failed))
            await asyncio.sleep(self._config.upkeep_interval)

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
        sandbox = self._known(record)
        sandbox.state = SandboxState.CLAIMED
        sandbox.capabilities = record.capabilities
        sandbox.claimed_at = record.claimed_at
        sandbox.gate = self._gate(sandbox)
        self._stock.add(sandbox)
        if record.network == "allowlist":
            self._stock.spawn(self._reopen_way_out(sandbox, self.catalogue.allow(record.template)))
        log.info("adopted", sandbox=record.sandbox_id, instance=record.instance_id)

    def _take_up(self, record: records.SandboxRecord) -> None:
        sandbox = self._known(record)
        sandbox.comes_back = True
        sandbox.made_of = record.made_of
        sandbox.outdated = not self.catalogue.is_current(sandbox.template)
        sandbox.link.owner = self._gate(sandbox)(sandbox)
        self._dealing.take_up(sandbox)

    def _known(self, record: records.SandboxRecord) -> Sandbox:
        """A predecessor's, as it stands in the store."""
        sandbox = self._maker.sandbox(
            record.sandbox_id,
            self._runtimes[record.runtime],
            self._template_of(record),
            record.uid,
            self._kind(record),
            created_at=record.created_at,
            committed=record.committed_number,
        )
        sandbox.instance_id = record.instance_id
        sandbox.kernel_type, sandbox.env_source = record.kernel_type, record.env_source
        sandbox.kernel = KernelReport("ready", record.generation, "")
        return sandbox

    def _kind(self, record: records.SandboxRecord) -> Kind:
        environment = self.environments.used_by(record.sandbox_id)
        return Kind(record.runtime, record.template, record.network, record.kernel_type, record.env_source, environment)

    def _gate(self, sandbox: Sandbox) -> Callable[[LinkOwner], LinkOwner]:
        return partial(Attesting, sandbox, self._maker.spec(sandbox), partial(self._deviates, sandbox))

    def _deviates(self, sandbox: Sandbox, gone: SandboxGone) -> None:
        self.let_go(sandbox.sandbox_id, gone.reason, str(gone))

    def _template_of(self, record: records.SandboxRecord) -> Template:
        if record.asked is not None:
            return record.asked
        known = record.template if templates.split(record.template)[0] in self._config.templates else "default"
        return self.catalogue.template(known, record.network, record.kernel_type or "python")

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


def _view(node: str, record: records.SandboxRecord, notebook: NotebookRef | None) -> SandboxView:
    return SandboxView(
        record.sandbox_id,
        record.instance_id,
        notebook,
        record.state,
        record.template,
        record.runtime,
        record.created_at,
        record.claimed_at,
        record.end_reason,
        "",
        node,
    )
