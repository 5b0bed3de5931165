"""Sandboxes: what there is, and what has been proven of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from cellyard_controller.api import requests
from cellyard_controller.api.access import Access, Caller, stream, unary
from cellyard_controller.clock import shown, steady
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest, PermissionDenied
from cellyard_controller.ids import SandboxId
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.pool import PoolView
from cellyard_controller.sandboxes.stock import SandboxView
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_proto.v1 import sandboxes_pb2 as pb
from cellyard_proto.v1 import sandboxes_pb2_grpc


class Sandboxes(sandboxes_pb2_grpc.SandboxesServicer):
    """The Sandboxes service."""

    def __init__(self, access: Access, supervisor: Supervisor, config: Config) -> None:
        self.access, self._supervisor, self._config = access, supervisor, config

    @unary
    async def GetCapabilities(  # noqa: N802
        self, message: pb.GetCapabilitiesRequest, caller: Caller
    ) -> pb.GetCapabilitiesResponse:
        """What a runtime's sandboxes have been shown to do."""
        runtime = self._supervisor.catalogue.runtime(message.runtime)
        if runtime.name == "process" and not caller.operator:
            raise PermissionDenied("the process runtime isolates nothing: it is for the operator alone")
        catalogue = self._supervisor.catalogue
        name, _ = requests.template(message.template, caller, self._config)
        template = catalogue.template(name, message.network)
        if message.network:
            catalogue.check_network(runtime.name, template.name, message.network)
        readiness = await runtime.readiness(template)
        facts = await runtime.capabilities(template)  # of one that is not ready: nothing is proven, and why
        return pb.GetCapabilitiesResponse(
            runtime=runtime.name,
            template=template.name,
            ready=readiness.ready,
            not_ready_reason=readiness.reason,
            capabilities=[
                pb.Capability(name=fact.name, granted=fact.granted, evidence=fact.evidence, probed_at=fact.probed_at)
                for fact in facts
            ],
        )

    @unary
    async def List(self, message: pb.ListSandboxes, caller: Caller) -> pb.ListSandboxesResponse:  # noqa: N802
        """The caller's sandboxes; for the operator all. Those of other nodes too, as the store has them."""
        views = await self._supervisor.views()
        return pb.ListSandboxesResponse(sandboxes=[_sandbox(each) for each in views if _may_see(caller, each)])

    @unary
    async def Stop(self, message: pb.StopSandbox, caller: Caller) -> pb.StopSandboxResponse:  # noqa: N802
        """Ends one sandbox; one that is not there is no error, one of another node is that node's to end."""
        sandbox = self._supervisor.find(SandboxId(message.sandbox_id))
        if sandbox is not None and _may_see(caller, SandboxView.of(sandbox)):
            await self._supervisor.release(sandbox.sandbox_id, EndReason.SHUTDOWN, "the sandbox was stopped by hand")
        elif sandbox is None:
            await self._not_elsewhere(message.sandbox_id, caller)
        return pb.StopSandboxResponse()

    @stream
    async def Watch(self, message: pb.WatchSandboxes, caller: Caller) -> AsyncIterator[pb.SandboxEvent]:  # noqa: N802
        """The caller's sandboxes, and what becomes of them; for the operator all."""
        async with aclosing(self._supervisor.watch()) as views:
            async for view in views:
                if view is None:
                    yield pb.SandboxEvent(caught_up=pb.CaughtUp())
                elif _may_see(caller, view):
                    yield pb.SandboxEvent(sandbox=_sandbox(view))

    @unary
    async def ListPools(self, message: pb.ListPoolsRequest, caller: Caller) -> pb.ListPoolsResponse:  # noqa: N802
        """The pools of warm sandboxes."""
        caller.must_be_operator()
        return pb.ListPoolsResponse(pools=[_pool(view) for view in self._supervisor.pools()])

    async def _not_elsewhere(self, sandbox_id: str, caller: Caller) -> None:
        for view in await self._supervisor.views():
            if view.sandbox_id == sandbox_id and _may_see(caller, view):
                raise InvalidRequest(f"sandbox {sandbox_id!r} is on node {view.node!r}: ask that one", node=view.node)


def _may_see(caller: Caller, sandbox: SandboxView) -> bool:
    return caller.operator or (sandbox.notebook is not None and sandbox.notebook.tenant == caller.tenant)


def _sandbox(sandbox: SandboxView) -> pb.Sandbox:
    return pb.Sandbox(
        sandbox_id=sandbox.sandbox_id,
        container_id=sandbox.instance_id,
        notebook_id=sandbox.notebook.notebook_id if sandbox.notebook else "",
        tenant=sandbox.notebook.tenant if sandbox.notebook else "",
        state=pb.SandboxState.Value(f"SANDBOX_STATE_{sandbox.state.upper()}"),
        template=sandbox.template,
        age_s=max(0.0, steady() - sandbox.created_at),
        runtime=sandbox.runtime,
        end_reason=sandbox.end_reason,
        end_message=sandbox.end_message,
        claimed_at=shown(sandbox.claimed_at) if sandbox.claimed_at else 0.0,
        node=sandbox.node,
    )


def _pool(pool: PoolView) -> pb.Pool:
    return pb.Pool(
        template=pool.kind.template,
        runtime=pool.kind.runtime,
        kernel_type=pool.kind.kernel_type,
        env_source=pool.kind.env_source,
        target=pool.target,
        warm=pool.warm,
        making=pool.making,
        claimed=pool.claimed,
        hits=pool.demand.hits,
        misses=pool.demand.misses,
        failures=pool.demand.failures,
        claim_rate=pool.claim_rate,
        lead_s=pool.demand.lead_s,
        oldest_s=pool.oldest_s,
    )
