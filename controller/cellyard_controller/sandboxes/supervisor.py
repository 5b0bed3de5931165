"""Starts, watches and ends sandboxes. One supervisor a controller; rooms ask it, nobody else touches runtimes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from cellyard_controller.clock import steady
from cellyard_controller.config import Config
from cellyard_controller.egress.process import Egress, EgressFailed
from cellyard_controller.egress.targets import Denial
from cellyard_controller.executions.reports import Warned
from cellyard_controller.ids import NotebookKey, SandboxId, new_sandbox_id
from cellyard_controller.runtimes import (
    Instance,
    Runtime,
    RuntimeFailed,
    SandboxSpec,
    Template,
)
from cellyard_controller.sandboxes import endings, records
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.coming_up import attest, bring_in, within
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.link import AgentLink
from cellyard_controller.sandboxes.link_messages import Greeting, KernelReport
from cellyard_controller.sandboxes.sandbox import ClaimRequest, KernelSettings, Sandbox, SandboxGone
from cellyard_controller.store import Store, StoreFailed

Report = Callable[[str, str], None]
"""Progress of a claim: a stage for programs and a sentence for people."""

_FIRST_UID = 200_000
_CONNECT_WITHIN = 60.0
_KERNEL_WITHIN = 60.0
_STOP_AGAIN_AFTER = (1.0, 5.0, 30.0)
_MISSED_PINGS = 3

log = structlog.get_logger()


class Supervisor:
    """All sandboxes of this controller."""

    def __init__(
        self,
        store: Store,
        runtimes: Mapping[str, Runtime],
        config: Config,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._store = store
        self._runtimes = runtimes
        self._config = config
        self._tasks = tasks
        self.catalogue = Catalogue(runtimes, config)
        self.egress = Egress(config.network, self._denied)
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._releases: set[asyncio.Task[None]] = set()

    # What there is

    def sandboxes(self) -> list[Sandbox]:
        """Every sandbox that has not ended, oldest first."""
        return sorted(self._sandboxes.values(), key=lambda sandbox: sandbox.created_at)

    def find(self, sandbox_id: SandboxId) -> Sandbox | None:
        """One sandbox that has not ended."""
        return self._sandboxes.get(sandbox_id)

    # Starting up and going down

    async def reconcile(self) -> dict[NotebookKey, tuple[EndReason, str]]:
        """Adopts what is known and runs, removes what is ours and unknown.

        Known means that the container's id stands in the store, whatever labels say. Returns why the sandboxes of
        notebooks ended that were claimed and are gone.
        """
        lost: dict[NotebookKey, tuple[EndReason, str]] = {}
        living = await self._store.read(records.living)
        found: dict[str, tuple[str, Instance | None]] = {}
        for runtime in self._runtimes.values():
            try:
                for listed in await runtime.instances(self._store.controller_id):
                    found[listed.instance_id] = (runtime.name, listed)
            except RuntimeFailed as failed:
                log.warning("runtime does not answer at start", runtime=runtime.name, why=str(failed))
        nothing: tuple[str, Instance | None] = ("", None)
        for record in living:
            runtime_name, instance = found.pop(record.instance_id, nothing)
            if record.state is SandboxState.CLAIMED and instance is not None and instance.running:
                self._adopt(record)
                continue
            reason, message = EndReason.RUNTIME_LOST, "the sandbox did not outlive the controller"
            if instance is not None and not instance.running:
                reason, message = _why_ended(instance), _describe(instance, self._template_of(record))
            if record.notebook is not None:
                lost[record.notebook] = (reason, message)
            await self._store.write(partial(records.set_ended, sandbox_id=record.sandbox_id, reason=reason))
            if instance is not None:
                self._spawn(self._remove_instance(runtime_name, instance.instance_id))
        for instance_id, (runtime_name, _) in found.items():
            log.info("removing an unknown sandbox of ours", instance=instance_id)
            self._spawn(self._remove_instance(runtime_name, instance_id))
        for runtime in self._runtimes.values():
            self._spawn(runtime.watch(self._on_exit))
            self._spawn(self._probe(runtime))
        self._spawn(self.egress.run())
        self._spawn(self._ping_all())
        return lost

    async def stop(self, *, keep_claimed: bool) -> None:
        """Ends everything, or all but claimed sandboxes, which a successor adopts."""
        ending = []
        for sandbox in self.sandboxes():
            if keep_claimed and sandbox.state is SandboxState.CLAIMED:
                await sandbox.link.close()
            else:
                ending.append(self.release(sandbox.sandbox_id, EndReason.SHUTDOWN, "the controller was stopped"))
        await asyncio.gather(*ending, *self._releases)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for runtime in self._runtimes.values():
            await runtime.close()

    # Claims

    async def claim(self, request: ClaimRequest, report: Report) -> Sandbox:
        """A sandbox with a ready kernel for this notebook. Raises Refused, SandboxGone; nothing is left then."""
        settings = request.settings
        if settings.require:
            await self.catalogue.require(settings)
        report("create", "starting a sandbox")
        sandbox = await self._create(settings)
        try:
            await self._bring_up(sandbox, settings, report)
            sandbox.capabilities = await self.catalogue.require(settings)
            await self._give(sandbox, request)
        except BaseException as failed:
            reason = failed.reason if isinstance(failed, SandboxGone) else EndReason.START_FAILED
            await asyncio.shield(self.let_go(sandbox.sandbox_id, reason, str(failed)))
            raise
        return sandbox

    async def release(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> None:
        """Ends a sandbox for good. Returns when its container is removed; ended ones are no error."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.state is SandboxState.STOPPING:
            return
        sandbox.move(SandboxState.STOPPING)
        await sandbox.ended(reason, message)
        sandbox.link.goodbye(reason)
        self.egress.close(sandbox_id)
        try:
            await self._store.write(partial(records.set_ended, sandbox_id=sandbox_id, reason=reason))
        except StoreFailed as failed:  # the next start finds its container gone, and notes the end then
            log.error("a sandbox's end is not stored", sandbox=sandbox_id, why=str(failed))
        if sandbox.instance_id:
            await self._remove_instance(sandbox.runtime.name, sandbox.instance_id)
        await sandbox.link.close()
        sandbox.link.remove_folder()
        sandbox.move(SandboxState.ENDED)
        del self._sandboxes[sandbox_id]

    def let_go(self, sandbox_id: SandboxId, reason: EndReason, message: str = "") -> asyncio.Task[None]:
        """Releases a sandbox, even where whoever asks for it is gone before that is done."""
        task = self._tasks.create_task(_guarded(self.release(sandbox_id, reason, message)))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    # Inside

    async def _create(self, settings: KernelSettings) -> Sandbox:
        runtime = self.catalogue.runtime(settings.runtime)
        template = self.catalogue.template(settings.template, settings.network)
        sandbox_id = new_sandbox_id()
        sandbox = Sandbox(sandbox_id, runtime, template, self._free_uid(), steady())
        self._sandboxes[sandbox_id] = sandbox
        sandbox.attach_link(self._link(sandbox), self._greeting(0))
        try:
            row = (sandbox_id, runtime.name, template.name, sandbox.uid, template.network)
            await self._store.write(lambda c: records.add(c, *row))
            await sandbox.link.open()
        except BaseException:
            await sandbox.link.close()
            del self._sandboxes[sandbox_id]
            raise
        return sandbox

    async def _bring_up(self, sandbox: Sandbox, settings: KernelSettings, report: Report) -> None:
        spec = SandboxSpec(
            sandbox_id=sandbox.sandbox_id,
            controller_id=self._store.controller_id,
            template=sandbox.template,
            link_dir=sandbox.link.folder,
            uid=sandbox.uid,
        )
        starting = asyncio.ensure_future(sandbox.runtime.start(spec))
        try:
            sandbox.instance_id = await asyncio.shield(starting)
        except RuntimeFailed as failed:
            raise SandboxGone(EndReason(failed.reason), str(failed)) from failed
        except asyncio.CancelledError:
            # The runtime goes on all the same: what it makes has to be known to be removed.
            with suppress(RuntimeFailed):
                sandbox.instance_id = await starting
            raise
        instance_id = sandbox.instance_id
        await self._store.write(lambda c: records.change(c, sandbox.sandbox_id, instance_id=instance_id))
        # It may have ended before its id was known here, and then nobody else would notice.
        self._spawn(self._look_after(sandbox))
        report("kernel", "starting the kernel")
        await within(_CONNECT_WITHIN, sandbox.wait_connected(), "the agent did not connect")
        await attest(sandbox, spec)  # before it hears of anything that is secret
        sandbox.kernel_type = settings.kernel_type
        proxy = settings.network == "allowlist"
        sandbox.link.start_kernel(settings.kernel_type, dict(settings.env), proxy=proxy)
        await within(_KERNEL_WITHIN, sandbox.wait_kernel(), "the kernel did not start")
        sandbox.move(SandboxState.WARM)
        if settings.files:
            report("files", f"bringing {len(settings.files)} files in")
        for name, content in settings.files.items():
            await within(_CONNECT_WITHIN, bring_in(sandbox, name, content), "a file did not come in")

    async def _give(self, sandbox: Sandbox, request: ClaimRequest) -> None:
        settings = request.settings
        sandbox.env_source = settings.env_source
        if settings.network == "allowlist":
            await self._open_way_out(sandbox)
        sandbox.claimed_at = steady()
        await self._store.write(
            lambda c: records.set_claimed(
                c,
                sandbox.sandbox_id,
                request.notebook,
                kernel_type=settings.kernel_type,
                env_source=sandbox.env_source,
                capabilities=sandbox.capabilities,
                generation=sandbox.kernel.generation,
                at=sandbox.claimed_at,
            )
        )
        sandbox.notebook = request.ref
        sandbox.move(SandboxState.CLAIMED)

    async def _open_way_out(self, sandbox: Sandbox) -> None:
        """Its template's list, from now to its end. Raises SandboxGone."""
        allow = self.catalogue.allow(sandbox.template.name)
        try:
            await self.egress.open(sandbox.sandbox_id, sandbox.link.folder, sandbox.uid, allow)
        except EgressFailed as failed:
            raise SandboxGone(EndReason.START_FAILED, str(failed)) from failed

    def _denied(self, sandbox_id: str, denial: Denial) -> None:
        sandbox = self._sandboxes.get(SandboxId(sandbox_id))
        if sandbox is not None:
            details = {"host": denial.host, "port": str(denial.port), "reason": denial.reason}
            sandbox.warned(Warned("network_denied", str(denial), details))

    def _adopt(self, record: records.SandboxRecord) -> None:
        sandbox = Sandbox(
            record.sandbox_id,
            self._runtimes[record.runtime],
            self._template_of(record),
            record.uid,
            record.created_at,
        )
        sandbox.state = SandboxState.CLAIMED
        sandbox.instance_id = record.instance_id
        sandbox.capabilities = record.capabilities
        sandbox.kernel_type, sandbox.env_source = record.kernel_type, record.env_source
        sandbox.claimed_at = record.claimed_at
        sandbox.kernel = KernelReport("ready", record.generation, "")
        sandbox.attach_link(self._link(sandbox), self._greeting(record.committed_number))
        self._sandboxes[record.sandbox_id] = sandbox
        if record.network == "allowlist":
            self._spawn(self._reopen_way_out(sandbox, self.catalogue.allow(record.template)))
        log.info("adopted", sandbox=record.sandbox_id, instance=record.instance_id)

    def _template_of(self, record: records.SandboxRecord) -> Template:
        known = record.template if record.template in self._config.templates else "default"
        return self.catalogue.template(known, record.network)

    async def _reopen_way_out(self, sandbox: Sandbox, allow: tuple[str, ...]) -> None:
        try:
            await self.egress.open(sandbox.sandbox_id, sandbox.link.folder, sandbox.uid, allow)
        except EgressFailed as failed:  # it stays wanted, and the proxy is started again and again
            log.warning("a sandbox is without its way out", sandbox=sandbox.sandbox_id, why=str(failed))

    def _link(self, sandbox: Sandbox) -> AgentLink:
        folder = self._config.data / "link" / sandbox.sandbox_id
        return AgentLink(sandbox.sandbox_id, folder, sandbox.uid, sandbox)

    def _greeting(self, committed: int) -> Greeting:
        limits = self._config.limits
        return Greeting(committed, limits.output_bytes, limits.output_count, self._config.sandboxes.link_grace)

    def _free_uid(self) -> int:
        used = {sandbox.uid for sandbox in self._sandboxes.values()}
        return next(uid for uid in range(_FIRST_UID, _FIRST_UID + len(used) + 1) if uid not in used)

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

    def _on_exit(self, instance_id: str) -> None:
        for sandbox in self._sandboxes.values():
            if sandbox.instance_id == instance_id and sandbox.state is not SandboxState.STOPPING:
                self._spawn(self._look_after(sandbox))

    async def _look_after(self, sandbox: Sandbox) -> None:
        """Ends a sandbox whose instance has ended, with the reason that the runtime knows."""
        try:
            instance = await sandbox.runtime.inspect(sandbox.instance_id)
        except RuntimeFailed as failed:
            log.warning("a sandbox cannot be inspected", sandbox=sandbox.sandbox_id, why=str(failed))
            return
        if instance is None:
            await self.release(sandbox.sandbox_id, EndReason.RUNTIME_LOST, "the container is gone")
        elif not instance.running:
            await self.release(sandbox.sandbox_id, _why_ended(instance), _describe(instance, sandbox.template))

    async def _probe(self, runtime: Runtime) -> None:
        """Asks for every template's capabilities before anybody does: a canary takes some seconds."""
        for name in self._config.templates:
            template = self.catalogue.template(name)
            if (await runtime.readiness(template)).ready:
                await runtime.capabilities(template)

    async def _ping_all(self) -> None:
        interval = self._config.sandboxes.ping_interval
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(interval)
            for sandbox in self.sandboxes():
                if not sandbox.link.up:
                    continue
                if loop.time() - sandbox.link.last_heard > (_MISSED_PINGS + 1) * interval:
                    message = "the agent does not answer"
                    self._spawn(self.release(sandbox.sandbox_id, EndReason.RUNTIME_LOST, message))
                else:
                    sandbox.link.ping()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(_guarded(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    """A defect in the care for one sandbox ends neither the others nor the controller."""
    try:
        await work
    except Exception:  # whatever it is: the others have their own
        log.exception("the supervisor's work failed")


def _why_ended(instance: Instance) -> EndReason:
    return EndReason.OOM if instance.oom_killed else EndReason.EXIT


def _describe(instance: Instance, template: Template) -> str:
    if instance.oom_killed:
        return endings.out_of_memory(template)
    return f"the sandbox ended with exit code {instance.exit_code}"
