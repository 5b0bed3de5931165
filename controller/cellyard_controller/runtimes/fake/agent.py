"""The agent of a fake sandbox: the whole protocol of the link, and the rules of a good agent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from cellyard_controller.runtimes import SandboxSpec
from cellyard_controller.runtimes.fake.calls import Calls, reply
from cellyard_controller.runtimes.fake.clock import Clock
from cellyard_controller.runtimes.fake.events import Events
from cellyard_controller.runtimes.fake.flows import Flows, Packages
from cellyard_controller.runtimes.fake.kernel import Gates, Kernel, KernelGone
from cellyard_proto import framing
from cellyard_proto.v1 import link_pb2 as link
from cellyard_proto.v1 import outputs_pb2 as outputs

PROTOCOL = 1
IGNORED_TIMEOUT_S = 5.0
LINK_GRACE_S = 600.0
_DIAL_AGAIN_S = 0.005
_KERNEL_TYPES = ("python",)
_LEAVES_IT_UNTOUCHED = ("start_kernel", "acknowledge", "ping", "lease")


@dataclass(slots=True)
class _Execution:
    order: link.Dispatch
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted_by: str = ""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class FakeAgent:
    """One sandbox's agent. `run` it as a task; cancelling that is how a container is killed."""

    def __init__(self, spec: SandboxSpec, clock: Clock, gates: Gates, facts: link.Facts) -> None:
        self._path = spec.link_dir / "agent.sock"
        self._clock = clock
        self._gates = gates
        self._facts = facts
        self._events = Events()
        self._calls = Calls()
        self._kernel = Kernel(gates)
        self._status = link.KernelStatus(state=link.HOST_STATE_NONE)
        self._running: _Execution | None = None
        self._waiting: deque[_Execution] = deque()
        self._early: dict[str, float] = {}  # interrupts that came before their execution's start
        self._writer: asyncio.StreamWriter | None = None  # while welcome
        self._connection: asyncio.StreamWriter | None = None
        self._flushing = False
        self._grace_s = LINK_GRACE_S
        self._grace: asyncio.Task[None] | None = None
        self._lease: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.may_dial = asyncio.Event()
        self.may_dial.set()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.next_kernel_fails = ""
        self.untouched = True
        self.files: dict[str, bytes] = {}
        self.packages = Packages()
        self._flows = Flows(self.files, self.packages, lambda frame: self._send(link.FromAgent(flow=frame)))
        self.comms: list[outputs.Comm] = []
        self.kernel_env: dict[str, str] = {}

    async def run(self) -> int:
        """Lives until told goodbye, or until nobody has been there for too long. Returns the exit code."""
        try:
            self._start(self._keep_linked())
            self._grace = self._start(self._wait_for_controller())
            return await self._ended
        finally:
            self.drop_link()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop_link(self) -> None:
        """Cuts the connection; the agent dials again unless it may not."""
        if self._connection is not None:
            self._connection.transport.abort()

    # The link

    async def _keep_linked(self) -> None:
        while True:
            await self.may_dial.wait()
            try:
                reader, self._connection = await asyncio.open_unix_connection(str(self._path))
                await self._serve(reader, self._connection)
            except (OSError, framing.FrameError):
                pass  # nobody listens yet, or the connection broke: dial again
            finally:
                self._hang_up()
            await asyncio.sleep(_DIAL_AGAIN_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = link.Hello(
            protocol=PROTOCOL,
            kernel=self._status,
            held_executions=self._events.held(),
            last_number=self._events.last_number,
            facts=self._facts,
            open_calls=self._calls.told(),
            untouched=self.untouched,
        )
        writer.write(framing.encode(link.FromAgent(hello=hello)))
        answer = await framing.read(reader, link.ToAgent)
        if answer is None or not answer.HasField("welcome"):
            return
        self._welcome(answer.welcome, writer)
        while (message := await framing.read(reader, link.ToAgent)) is not None:
            await self.may_read.wait()
            self._obey(message)

    def _welcome(self, welcome: link.Welcome, writer: asyncio.StreamWriter) -> None:
        if self._grace is not None:
            self._grace.cancel()
        self._grace_s = welcome.link_grace_s or LINK_GRACE_S
        self._events.limits = welcome
        self._events.rewind(welcome.committed_number)
        self._writer = writer
        self._flush()

    def _hang_up(self) -> None:
        was_welcome, self._writer = self._writer is not None, None
        self._flows.drop()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if was_welcome:
            self._grace = self._start(self._wait_for_controller())

    def _leased(self, seconds: float) -> None:
        if self._lease is not None:
            self._lease.cancel()
        self._lease = self._start(self._outlive(seconds))

    async def _outlive(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._end_agent(0)

    async def _wait_for_controller(self) -> None:
        await self._clock.sleep(self._grace_s)
        self._end_agent(0)

    def _obey(self, message: link.ToAgent) -> None:
        if message.WhichOneof("message") not in _LEAVES_IT_UNTOUCHED:
            self.untouched = False
        match message.WhichOneof("message"):
            case "start_kernel":
                self._start_kernel(message.start_kernel)
            case "claim":
                self.kernel_env = self.kernel_env or dict(message.claim.env)
            case "dispatch":
                self._dispatch(message.dispatch)
            case "interrupt":
                self._interrupt(message.interrupt.execution_id, message.interrupt.restart_after_s)
            case "acknowledge":
                self._events.acknowledge(message.acknowledge.number)
            case "lease":
                self._leased(message.lease.left_s)
            case "ping":
                self._send(link.FromAgent(pong=link.Pong(id=message.ping.id)))
            case "restart_kernel":
                if message.restart_kernel.generation == self._status.generation:
                    self._restart_kernel("kernel_restarted")
            case "flow":
                self._flows.receive(message.flow)
            case "answer":
                self._calls.answer(message.answer)
            case "ask":
                busy = self._running is not None
                self._send(link.FromAgent(reply=reply(message.ask, busy=busy)))
            case "comm":
                self.comms.append(message.comm)
            case "goodbye":
                self._end_agent(0)

    def _send(self, message: link.FromAgent) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(framing.encode(message))

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._writer is not None:
            for batch in self._events.batches():
                self._send(link.FromAgent(batch=batch))

    def _tell_status(self, state: link.HostState.ValueType, reason: str = "") -> None:
        self._status = link.KernelStatus(state=state, generation=self._status.generation, reason=reason)
        self._flush()  # what happened before is told before
        self._send(link.FromAgent(kernel=self._status))

    # The kernel

    def _start_kernel(self, order: link.StartKernelHost) -> None:
        if self._status.state != link.HOST_STATE_NONE:
            return
        if order.kernel_type not in _KERNEL_TYPES:
            self.next_kernel_fails = f"no kernel of the type {order.kernel_type!r}"
        self._fresh_kernel()

    def _restart_kernel(self, reason: str) -> None:
        self._lose_kernel(reason)
        self._fresh_kernel()

    def _fresh_kernel(self) -> None:
        self._kernel = Kernel(self._gates)
        self._status.generation += 1
        self._tell_status(link.HOST_STATE_STARTING)
        failure, self.next_kernel_fails = self.next_kernel_fails, ""
        if failure:
            self._kernel_died(f"start_failed: {failure}")
            return
        self._tell_status(link.HOST_STATE_READY)
        self._run_next()

    def _kernel_died(self, reason: str) -> None:
        self._lose_kernel(reason)
        self._tell_status(link.HOST_STATE_DEAD, reason)

    def _lose_kernel(self, reason: str) -> None:
        lost = [*([self._running] if self._running is not None else []), *self._waiting]
        self._running, self._waiting = None, deque()
        for execution in lost:
            self._end(execution, _kernel_gone(reason))

    # Executions

    def _dispatch(self, order: link.Dispatch) -> None:
        if not self._events.take(order.execution_id):
            return
        execution = _Execution(order)
        if self._status.state == link.HOST_STATE_DEAD:
            self._end(execution, _kernel_gone(self._status.reason))
            return
        self._waiting.append(execution)
        self._run_next()

    def _run_next(self) -> None:
        if self._status.state != link.HOST_STATE_READY or self._running is not None or not self._waiting:
            return
        execution = self._running = self._waiting.popleft()
        execution.tasks.append(self._start(self._run(execution)))

    async def _run(self, execution: _Execution) -> None:
        order, kernel, started_at = execution.order, self._kernel, self._clock.time()
        kernel.execution_count += 1
        started = link.ExecutionStarted(execution_count=kernel.execution_count)
        self._events.add(order.execution_id, link.Event(started=started))
        self._flush_soon()
        if order.timeout_s > 0:
            execution.tasks.append(self._start(self._time_out(execution)))
        early = self._early.pop(order.execution_id, None)
        if early is not None:
            self._interrupt_running(execution, "interrupt", early)

        def show(event: link.Event) -> None:
            self._events.show(order.execution_id, event)
            self._flush_soon()

        async def call(event: link.Event) -> link.CallAnswer:
            call_id, answer = self._calls.open(order.execution_id)
            getattr(event, event.WhichOneof("event") or "").call_id = call_id
            show(event)
            return await answer

        try:
            ended = await kernel.run(order.source, execution.interrupted, show, call)
        except KernelGone as gone:
            self._kernel_died(str(gone))
            return
        ended.wall_s = self._clock.time() - started_at
        self._running = None
        self._end(execution, ended)
        self._run_next()

    async def _time_out(self, execution: _Execution) -> None:
        await self._clock.sleep(execution.order.timeout_s)
        self._interrupt_running(execution, "timeout", IGNORED_TIMEOUT_S)

    def _interrupt(self, execution_id: str, restart_after_s: float) -> None:
        running = self._running
        if running is not None and running.order.execution_id == execution_id:
            self._interrupt_running(running, "interrupt", restart_after_s)
        elif not self._events.ended(execution_id):
            self._early[execution_id] = restart_after_s

    def _interrupt_running(self, execution: _Execution, why: str, restart_after_s: float) -> None:
        execution.interrupted_by = execution.interrupted_by or why
        execution.interrupted.set()
        if restart_after_s > 0:
            execution.tasks.append(self._start(self._restart_unless_heard(execution, restart_after_s)))

    async def _restart_unless_heard(self, execution: _Execution, patience_s: float) -> None:
        await self._clock.sleep(patience_s)
        if self._running is execution:
            why = f"the cell ignored its interrupt for {patience_s:g} s; the kernel was restarted"
            said = outputs.StreamOutput(name="stderr", text=f"[cellyard: {why}]\n")
            self._events.show(execution.order.execution_id, link.Event(output=outputs.Output(stream=said)))
            self._restart_kernel("kernel_restarted")

    def _end(self, execution: _Execution, ended: link.ExecutionEnded) -> None:
        ended.interrupted_by = execution.interrupted_by
        ended.traceparent = execution.order.traceparent
        self._early.pop(execution.order.execution_id, None)
        self._calls.drop(execution.order.execution_id)
        self._events.add(execution.order.execution_id, link.Event(ended=ended))
        self._flush_soon()
        for task in execution.tasks:
            if task is not asyncio.current_task():
                task.cancel()

    # Its own life

    def _end_agent(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _kernel_gone(reason: str) -> link.ExecutionEnded:
    return link.ExecutionEnded(outcome=link.OUTCOME_KERNEL_GONE, reason=reason)
