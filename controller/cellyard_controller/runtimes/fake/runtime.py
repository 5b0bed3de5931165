"""The fake runtime, with everything that a test may want to go wrong."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cellyard_controller.runtimes import (
    CapabilityFact,
    Instance,
    Readiness,
    RuntimeFailed,
    SandboxSpec,
    Template,
    ToldFacts,
)
from cellyard_controller.runtimes.fake import programs
from cellyard_controller.runtimes.fake.agent import FakeAgent
from cellyard_controller.runtimes.fake.clock import Clock, LoopClock
from cellyard_controller.runtimes.fake.flows import Packages
from cellyard_controller.runtimes.fake.kernel import Gates
from cellyard_proto.v1 import link_pb2 as link
from cellyard_proto.v1 import outputs_pb2 as outputs

ENGINE_BOUND = 5.0
"""Seconds until a call to an engine that hangs is given up."""
CAPABILITIES = ("timeout", "process_isolation", "container_isolation", "network_isolation", "reset", "deps_install")
KILLED = 137


@dataclass(slots=True)
class _Sandbox:
    spec: SandboxSpec
    agent: FakeAgent
    task: asyncio.Task[None]
    instance: Instance


class FakeRuntime:
    """Sandboxes in this process. Tests steer it through the methods below `close`."""

    def __init__(
        self,
        *,
        name: str = "fake",
        clock: Clock | None = None,
        granted: tuple[str, ...] = CAPABILITIES,
    ) -> None:
        """`granted` are the capabilities that it claims to have proven."""
        self.name = name
        self.own_python = True
        self.clock = clock or LoopClock()
        self.granted = granted
        self.not_ready_reason = ""
        self.image = "fake"
        self.calls = 0
        """How many calls its engine was asked."""
        self.starts = 0
        """How many sandboxes were asked for."""
        self._gates = Gates()
        self._ids = itertools.count(1)
        self._sandboxes: dict[str, _Sandbox] = {}
        self._aside: dict[str, asyncio.subprocess.Process] = {}
        self._exits: asyncio.Queue[str] = asyncio.Queue()
        self.late = False
        """Whether what it could grant has not been proven yet."""
        self.deviates: list[str] = []
        """In what sandboxes are found not to be as they must be."""
        self._next_start: RuntimeFailed | None = None
        self._next_kernel = ""
        self._answering = asyncio.Event()
        self._answering.set()

    async def readiness(self, template: Template) -> Readiness:
        """Ready, unless a test said otherwise or the engine hangs."""
        try:
            await self._engine()
        except RuntimeFailed as failure:
            return Readiness(ready=False, reason=str(failure))
        return Readiness(ready=not self.not_ready_reason, reason=self.not_ready_reason)

    async def capabilities(self, template: Template) -> list[CapabilityFact]:
        """What `granted` says; with the policy open, no network_isolation; nothing where it is not ready."""
        ready = await self.readiness(template)
        if self.late:
            why = "not proven: the probe did not answer within 20 s"
            return [CapabilityFact(name, False, why, time.time(), late=True) for name in CAPABILITIES]
        if not ready.ready:
            return [CapabilityFact(name, False, f"not proven: {ready.reason}", time.time()) for name in CAPABILITIES]
        said = {
            name: (name in self.granted, f"the fake runtime was told so for {template.name}") for name in CAPABILITIES
        }
        if template.network == "open":
            said["network_isolation"] = False, "the network policy is open"
        return [CapabilityFact(name, granted, evidence, time.time()) for name, (granted, evidence) in said.items()]

    async def makings(self, template: Template) -> str:
        """What `image` says."""
        await self._engine()
        return self.image

    async def start(self, spec: SandboxSpec) -> str:
        """Starts an agent that dials spec.link_dir/agent.sock."""
        self.starts += 1
        await self._engine()
        failure, self._next_start = self._next_start, None
        if failure is not None:
            raise failure
        instance_id = f"fake-{next(self._ids)}"
        agent = FakeAgent(spec, self.clock, self._gates, _facts(spec))
        agent.next_kernel_fails, self._next_kernel = self._next_kernel, ""
        task = asyncio.create_task(self._live(instance_id, agent))
        instance = Instance(instance_id, spec.sandbox_id, spec.controller_id, running=True)
        self._sandboxes[instance_id] = _Sandbox(spec, agent, task, instance)
        return instance_id

    async def start_aside(self, spec: SandboxSpec, command: Sequence[str]) -> str:
        """Runs the command on this machine, on the link's folder and on what is mounted in its place."""
        await self._engine()
        failure, self._next_start = self._next_start, None
        if failure is not None:
            raise failure
        instance_id = f"fake-{next(self._ids)}"
        self._aside[instance_id] = await programs.run(spec, command)
        return instance_id

    async def deviations(self, instance_id: str, spec: SandboxSpec, told: ToldFacts) -> list[str]:
        """What `deviates` says, and whatever the fake agent would not have told."""
        await self._engine()
        return [*self.deviates, *([] if told.uid == spec.uid else [f"it says that it is user {told.uid}"])]

    async def stop(self, instance_id: str) -> None:
        """Ends and forgets a sandbox."""
        await self._engine()
        program = self._aside.pop(instance_id, None)
        if program is not None:
            await programs.end(program)
            return
        await self.kill(instance_id)
        self._sandboxes.pop(instance_id, None)

    async def inspect(self, instance_id: str) -> Instance | None:
        """The sandbox as it stands."""
        await self._engine()
        sandbox = self._sandboxes.get(instance_id)
        return None if sandbox is None else sandbox.instance

    async def instances(self, controller_id: str) -> list[Instance]:
        """Sandboxes of this controller that nobody stopped."""
        await self._engine()
        found = [sandbox.instance for sandbox in self._sandboxes.values()]
        return [instance for instance in found if instance.controller_id == controller_id]

    async def log_tail(self, instance_id: str) -> str:
        """Fake agents write nothing."""
        await self._engine()
        return ""

    async def watch(self, on_exit: Callable[[str], None]) -> None:
        """Tells ends as they come."""
        while True:
            on_exit(await self._exits.get())

    async def close(self) -> None:
        """Ends every sandbox: they are tasks of this event loop."""
        for instance_id in list(self._sandboxes):
            await self.kill(instance_id)
        self._sandboxes.clear()

    # For tests

    def open(self, gate: str) -> None:
        """Lets scripts pass `gate NAME`, now and later."""
        self._gates.open(gate)

    async def reached(self, gate: str) -> None:
        """Returns once a script has come to `gate NAME`."""
        await self._gates.reached(gate)

    def fail_next_start(self, reason: str = "start_failed", message: str = "told to fail") -> None:
        """The next `start` raises RuntimeFailed with this reason."""
        self._next_start = RuntimeFailed(reason, message)

    def fail_next_kernel(self, message: str = "told to fail") -> None:
        """The kernel of the next sandbox does not come up."""
        self._next_kernel = message

    async def kill(self, instance_id: str, *, exit_code: int = KILLED, oom: bool = False) -> None:
        """The container is gone from one moment to the next, with what it had not sent."""
        sandbox = self._sandboxes.get(instance_id)
        if sandbox is None or not sandbox.instance.running:
            return
        self._note_end(instance_id, exit_code, oom)
        sandbox.task.cancel()
        await asyncio.wait([sandbox.task])

    def remove(self, instance_id: str) -> None:
        """Somebody removed the container by hand: it is not even listed any more."""
        self._note_end(instance_id, KILLED, False)
        self._sandboxes.pop(instance_id).task.cancel()

    def drop_link(self, instance_id: str, *, stay_away: bool = False) -> None:
        """Cuts the link. The agent dials again at once, or with `stay_away` when `let_dial` is called."""
        agent = self._sandboxes[instance_id].agent
        if stay_away:
            agent.may_dial.clear()
        agent.drop_link()

    def let_dial(self, instance_id: str) -> None:
        """Ends `stay_away`."""
        self._sandboxes[instance_id].agent.may_dial.set()

    def freeze(self, instance_id: str) -> None:
        """The agent no longer reacts to anything, pings among it; what runs goes on."""
        self._sandboxes[instance_id].agent.may_read.clear()

    def thaw(self, instance_id: str) -> None:
        """Ends `freeze`."""
        self._sandboxes[instance_id].agent.may_read.set()

    def hang_engine(self) -> None:
        """Every call that needs the engine fails after ENGINE_BOUND; sandboxes go on."""
        self._answering.clear()

    def resume_engine(self) -> None:
        """Ends `hang_engine`; calls that still wait go on."""
        self._answering.set()

    def files(self, instance_id: str) -> dict[str, bytes]:
        """What was put into the sandbox's home."""
        return self._sandboxes[instance_id].agent.files

    def packages(self, instance_id: str) -> Packages:
        """What Python packages it has."""
        return self._sandboxes[instance_id].agent.packages

    def kernel_env(self, instance_id: str) -> dict[str, str]:
        """The variables that the kernel was started with."""
        return self._sandboxes[instance_id].agent.kernel_env

    def comms(self, instance_id: str) -> list[outputs.Comm]:
        """The messages of comms that reached the kernel."""
        return self._sandboxes[instance_id].agent.comms

    async def _live(self, instance_id: str, agent: FakeAgent) -> None:
        exit_code = await agent.run()
        self._note_end(instance_id, exit_code, False)

    def _note_end(self, instance_id: str, exit_code: int, oom: bool) -> None:
        sandbox = self._sandboxes[instance_id]
        if sandbox.instance.running:
            sandbox.instance = replace(sandbox.instance, running=False, exit_code=exit_code, oom_killed=oom)
            self._exits.put_nowait(instance_id)

    async def _engine(self) -> None:
        self.calls += 1
        if self._answering.is_set():
            return
        answered = asyncio.create_task(self._answering.wait())
        bound = asyncio.create_task(self.clock.sleep(ENGINE_BOUND))
        try:
            await asyncio.wait((answered, bound), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
            bound.cancel()
        if not self._answering.is_set():
            raise RuntimeFailed("runtime_lost", "the fake engine hangs: call resume_engine()")


def _facts(spec: SandboxSpec) -> link.Facts:
    return link.Facts(
        uid=spec.uid,
        cap_eff="0" * 16,
        no_new_privs=1,
        seccomp=2,
        root_read_only=True,
        interfaces=["lo"],
        routes=0,
    )
