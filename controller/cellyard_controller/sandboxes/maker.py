"""Makes sandboxes: from nothing to a kernel that is up and that nobody has yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from cellyard_controller.clock import steady
from cellyard_controller.config import Config
from cellyard_controller.environments.making import Environments
from cellyard_controller.environments.shelf import EnvironmentKey
from cellyard_controller.ids import SandboxId, new_sandbox_id
from cellyard_controller.runtimes import Runtime, RuntimeFailed, SandboxSpec, Template
from cellyard_controller.sandboxes import records
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.coming_up import attest, within
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.link import AgentLink
from cellyard_controller.sandboxes.link_messages import Greeting
from cellyard_controller.sandboxes.plans import Kind
from cellyard_controller.sandboxes.reconciling import why_not_warm
from cellyard_controller.sandboxes.sandbox import Sandbox, SandboxGone
from cellyard_controller.sandboxes.tenure import Tenure
from cellyard_controller.store import Store

Report = Callable[[str, str], None]
"""Progress: a stage for programs and a sentence for people."""

_FIRST_UID = 200_000
_CONNECT_WITHIN = 60.0
_KERNEL_WITHIN = 60.0
_BACK_WITHIN = 60.0
"""Seconds; an agent dials four times in one, but on a machine with much to do attesting takes its time."""


class Maker:
    """Makes sandboxes of one controller."""

    def __init__(self, store: Store, catalogue: Catalogue, config: Config, environments: Environments) -> None:
        self._store, self._catalogue, self._config = store, catalogue, config
        self._environments = environments
        self.tenure = Tenure()
        """How long sandboxes go on by themselves."""

    def begin(self, kind: Kind, others: Iterable[Sandbox]) -> Sandbox:
        """A sandbox that is still nothing but a name. `others`: those that there are. Raises Refused."""
        runtime = self._catalogue.runtime(kind.runtime)
        template = self._catalogue.template(kind.template, kind.network, kind.kernel_type)
        sandbox = self.sandbox(new_sandbox_id(), runtime, template, _free_uid(others), kind, created_at=steady())
        sandbox.kernel_type, sandbox.env_source = kind.kernel_type, kind.env_source
        return sandbox

    def sandbox(
        self,
        sandbox_id: SandboxId,
        runtime: Runtime,
        template: Template,
        uid: int,
        kind: Kind,
        *,
        created_at: float,
        committed: int = 0,
    ) -> Sandbox:
        """One with its link, not open yet. `committed`: the last report of its agent that is stored."""
        sandbox = Sandbox(sandbox_id, runtime, template, uid, kind, created_at)
        folder = self._config.data / "link" / sandbox_id
        limits = self._config.limits
        greeting = Greeting(committed, limits.output_bytes, limits.output_count, self._config.sandboxes.link_grace)
        sandbox.attach_link(AgentLink(sandbox_id, folder, uid, sandbox, self.tenure), greeting)
        return sandbox

    async def bring_up(self, sandbox: Sandbox, report: Report, on_instance: Callable[[], object]) -> None:
        """Starts it, looks whether it is confined, and starts its kernel. Raises SandboxGone, Refused, StoreFailed.

        `on_instance` is called once there is something that can end.
        """
        report("create", "starting a sandbox")
        row = (sandbox.sandbox_id, sandbox.runtime.name, sandbox.template, sandbox.uid, self._store.node)
        await self._store.write(lambda c: records.add(c, *row))
        try:
            await sandbox.link.open()
        except OSError as failed:
            raise SandboxGone(EndReason.START_FAILED, f"its link cannot be opened: {failed.strerror}") from failed
        spec = self.spec(sandbox)
        try:
            self._environments.use(EnvironmentKey(sandbox.kind.environment), sandbox.sandbox_id)
        except OSError as failed:
            raise SandboxGone(EndReason.START_FAILED, f"its environment cannot be noted: {failed}") from failed
        with suppress(RuntimeFailed):  # which the start will say with better words
            sandbox.made_of = await sandbox.runtime.makings(sandbox.template)
        await self._start(sandbox, spec)
        instance_id = sandbox.instance_id
        await self._store.write(lambda c: records.change(c, sandbox.sandbox_id, instance_id=instance_id))
        on_instance()
        report("kernel", "starting the kernel")
        await within(_CONNECT_WITHIN, sandbox.wait_connected(), "the agent did not connect")
        await attest(sandbox, spec)  # before it hears of anything that is secret
        sandbox.link.start_kernel(sandbox.kernel_type)
        await within(_KERNEL_WITHIN, sandbox.wait_kernel(), "the kernel did not start")
        sandbox.capabilities = await self._catalogue.granted(sandbox.runtime, sandbox.template, sandbox.env_source)
        await self._store.write(
            lambda c: records.set_warm(
                c,
                sandbox.sandbox_id,
                kernel_type=sandbox.kernel_type,
                env_source=sandbox.env_source,
                capabilities=sandbox.capabilities,
                generation=sandbox.kernel.generation,
                made_of=sandbox.made_of,
            )
        )
        await sandbox.wait_kernel()  # it may have ended meanwhile

    async def bring_back(self, sandbox: Sandbox) -> None:
        """One that was warm before this controller's start is so again. Raises SandboxGone, OSError.

        Its link hears nothing before it is attested again; see Attesting.
        """
        generation = sandbox.kernel.generation
        await sandbox.link.open()
        await within(_BACK_WITHIN, sandbox.wait_connected(), "it did not come back")
        why_not = why_not_warm(sandbox.untouched, sandbox.kernel, generation)
        if why_not:
            raise SandboxGone(EndReason.RUNTIME_LOST, why_not)
        sandbox.capabilities = await self._catalogue.granted(sandbox.runtime, sandbox.template, sandbox.env_source)
        await sandbox.wait_kernel()  # it may have ended meanwhile

    def spec(self, sandbox: Sandbox) -> SandboxSpec:
        """What its runtime is asked for."""
        return SandboxSpec(
            sandbox_id=sandbox.sandbox_id,
            controller_id=self._store.controller_id,
            template=sandbox.template,
            link_dir=sandbox.link.folder,
            uid=sandbox.uid,
            environment=self._environments.site(EnvironmentKey(sandbox.kind.environment)),
        )

    async def _start(self, sandbox: Sandbox, spec: SandboxSpec) -> None:
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


def _free_uid(others: Iterable[Sandbox]) -> int:
    used = {sandbox.uid for sandbox in others}
    return next(uid for uid in range(_FIRST_UID, _FIRST_UID + len(used) + 1) if uid not in used)
