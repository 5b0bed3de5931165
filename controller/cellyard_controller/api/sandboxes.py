"""Sandboxes: what there is, and what has been proven of it."""

from __future__ import annotations

from cellyard_controller.api.access import Access, Caller, unary
from cellyard_controller.clock import steady
from cellyard_controller.errors import PermissionDenied
from cellyard_controller.ids import SandboxId
from cellyard_controller.sandboxes.lifecycle import EndReason
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_proto.v1 import sandboxes_pb2 as pb
from cellyard_proto.v1 import sandboxes_pb2_grpc


class Sandboxes(sandboxes_pb2_grpc.SandboxesServicer):
    """The Sandboxes service."""

    def __init__(self, access: Access, supervisor: Supervisor) -> None:
        self.access, self._supervisor = access, supervisor

    @unary
    async def GetCapabilities(  # noqa: N802
        self, message: pb.GetCapabilitiesRequest, caller: Caller
    ) -> pb.GetCapabilitiesResponse:
        """What a runtime's sandboxes have been shown to do."""
        runtime = self._supervisor.catalogue.runtime(message.runtime)
        if runtime.name == "process" and not caller.operator:
            raise PermissionDenied("the process runtime isolates nothing: it is for the operator alone")
        catalogue = self._supervisor.catalogue
        template = catalogue.template(message.template, message.network)
        if message.network:
            catalogue.check_network(runtime.name, template.name, message.network)
        readiness = await runtime.readiness(template)
        facts = await runtime.capabilities(template) if readiness.ready else []
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
        """The caller's sandboxes; for the operator all."""
        return pb.ListSandboxesResponse(
            sandboxes=[_sandbox(each) for each in self._supervisor.sandboxes() if _may_see(caller, each)]
        )

    @unary
    async def Stop(self, message: pb.StopSandbox, caller: Caller) -> pb.StopSandboxResponse:  # noqa: N802
        """Ends one sandbox; one that is not there is no error."""
        sandbox = self._supervisor.find(SandboxId(message.sandbox_id))
        if sandbox is not None and _may_see(caller, sandbox):
            await self._supervisor.release(sandbox.sandbox_id, EndReason.SHUTDOWN, "the sandbox was stopped by hand")
        return pb.StopSandboxResponse()


def _may_see(caller: Caller, sandbox: Sandbox) -> bool:
    return caller.operator or (sandbox.notebook is not None and sandbox.notebook.tenant == caller.tenant)


def _sandbox(sandbox: Sandbox) -> pb.Sandbox:
    return pb.Sandbox(
        sandbox_id=sandbox.sandbox_id,
        container_id=sandbox.instance_id,
        notebook_id=sandbox.notebook.notebook_id if sandbox.notebook else "",
        tenant=sandbox.notebook.tenant if sandbox.notebook else "",
        state=pb.SandboxState.Value(f"SANDBOX_STATE_{sandbox.state.upper()}"),
        template=sandbox.template.name,
        age_s=max(0.0, steady() - sandbox.created_at),
        runtime=sandbox.runtime.name,
    )
