"""The agent: wires link, outbox, executions and the kernel's host, and does what the controller asks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from cellyard_proto import PROTOCOL
from cellyard_proto.beneath import Home
from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox import facts, files
from cellyard_sandbox.beside import Beside
from cellyard_sandbox.calls import Calls
from cellyard_sandbox.carriers import Channels, OnMessage, OpenChannels
from cellyard_sandbox.cgroups import ControlGroup
from cellyard_sandbox.executions import Executions
from cellyard_sandbox.flows import Flows
from cellyard_sandbox.forward import Forwarder
from cellyard_sandbox.kernel_host import Answer, HostCall, KernelHost, Question, RunEnd, StartFailed
from cellyard_sandbox.kernel_life import HostState, KernelLife
from cellyard_sandbox.limits import OutputLimits
from cellyard_sandbox.link import Link, LinkLost
from cellyard_sandbox.messages import Item
from cellyard_sandbox.outbox import Outbox
from cellyard_sandbox.packages import Packages
from cellyard_sandbox.pressure import Pressure
from cellyard_sandbox.processes import Processes, keep_to_oneself

SHARED_MEMORY = "/dev/shm"

PROXY_SOCKET = "proxy.sock"
RESTARTED = "kernel_restarted"
NEW_KERNEL = "new_kernel"
DENO = "deno"
DENO_RESTART_S = 3.0
"""Seconds after which an interrupt restarts a Deno kernel that ignores it, as each does that waits in an `await`."""

_LEAVES_IT_UNTOUCHED = frozenset({"start_kernel", "acknowledge", "ping", "lease"})

KERNEL_HOST_VARIABLE = "CELLYARD_KERNEL_HOST"
"""Environment variable of the agent: which Python kernel it runs, "python" (ours) or "jupyter" (ipykernel)."""

log = logging.getLogger("cellyard.agent")


class Agent:
    """One sandbox's agent. Everything happens on one event loop; the kernel's starts are one task's."""

    def __init__(self, link_path: str, home: Path, scratch: Path, *, alone: bool) -> None:
        """`alone`: this is PID 1 of a container, so that scratch and shared memory are the kernel's alone."""
        self._loop = asyncio.get_running_loop()
        self._alone = alone
        self._home = home
        self._scratch = scratch
        below_home = Home(files.open_folder(str(home)))
        # A container's scratch runs nothing and is emptied; elsewhere the home is left to the user.
        root = str(home if alone else scratch)
        self._packages = Packages(Home(files.open_folder(root)), root)
        self._start_folder = ""  # of Pythons that no image has told where packages come in
        self._processes = Processes(alone=alone)
        self._beside = Beside(below_home, self._processes, self._packages, self._environment)
        self._life = KernelLife()
        self._claimed = False
        self._untouched = True
        self._lease: asyncio.TimerHandle | None = None
        self._env: dict[str, str] = {}
        self._forwarder: Forwarder | None = None
        self._proxy_path = str(Path(link_path).with_name(PROXY_SOCKET))
        self._kernel_type = "python"
        self._untold = False  # whoever runs the next cell has to hear that the kernel is a new one
        self._kernel_wanted = asyncio.Event()
        self._wanted_generation = 0
        self._goodbye = asyncio.Event()
        self._host: KernelHost | None = None
        self._outbox = Outbox(self._outbox_changed)
        self._executions = Executions(self._loop, self._the_host, self._outbox, self._stuck)
        # Only a container has limits of its own.
        self._pressure = Pressure(self._loop, ControlGroup(), self._disks(), self._warn) if alone else None
        self._calls = Calls(self._outbox, lambda: self._executions.running)
        self._flows = Flows(self._beside.begin, lambda: self._link.beside_changed())
        self._link = Link(
            link_path,
            self._outbox,
            self._hello,
            self._on_welcome,
            self._on_message,
            beside=self._flows.next_frame,
            on_lost=self._flows.drop,
        )
        self._actions: dict[str, Callable[[link_pb2.ToAgent], None]] = {
            "start_kernel": lambda message: self._start_kernel(message.start_kernel),
            "claim": lambda message: self._claim(message.claim),
            "restart_kernel": lambda message: self._restart_kernel(message.restart_kernel),
            "dispatch": lambda message: self._executions.dispatch(message.dispatch),
            "interrupt": lambda message: self._interrupt(message.interrupt),
            "acknowledge": lambda message: self._acknowledge(message.acknowledge.number),
            "ping": lambda message: self._link.answer(link_pb2.FromAgent(pong=link_pb2.Pong(id=message.ping.id))),
            "lease": lambda message: self._leased(message.lease.left_s),
            "flow": lambda message: self._flows.receive(message.flow),
            "answer": lambda message: self._calls.answered(message.answer),
            "ask": lambda message: self._ask(message.ask),
            "comm": lambda message: self._send_comm(message.comm),
            "goodbye": lambda message: self._end(f"goodbye: {message.goodbye.reason}"),
        }

    async def run(self) -> None:
        """Serves until a Goodbye, a SIGTERM, or until no controller came back; then kills everything."""
        keep_to_oneself()
        self._packages.prepare()
        if not self._alone:
            self._start_folder = self._packages.start_folder()
            self._env["PYTHONPATH"] = self._start_folder
        self._processes.attach(self._loop)
        self._loop.add_signal_handler(signal.SIGTERM, self._end, "SIGTERM")
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # of a terminal: the runtime ends us
        ends = [
            asyncio.ensure_future(coroutine)
            for coroutine in (self._goodbye.wait(), self._link.run(), self._keep_kernel())
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
        except LinkLost as lost:
            log.warning("%s", lost)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            if self._host is not None:
                await self._host.stop()
            if self._forwarder is not None:
                await self._forwarder.close()
            await self._processes.kill()

    # What the controller asks for

    def _hello(self) -> link_pb2.Hello:
        return link_pb2.Hello(
            protocol=PROTOCOL,
            kernel=self._life.status(),
            held_executions=self._executions.held,
            last_number=self._outbox.last_number,
            facts=facts.gather(),
            open_calls=self._calls.open,
            untouched=self._untouched,
        )

    def _on_welcome(self, welcome: link_pb2.Welcome) -> None:
        usual = OutputLimits()
        self._executions.limits = OutputLimits(
            welcome.output_bytes or usual.max_bytes, welcome.output_count or usual.max_count
        )
        self._executions.acknowledged(welcome.committed_number)

    def _on_message(self, message: link_pb2.ToAgent) -> None:
        kind = message.WhichOneof("message") or ""
        if kind not in _LEAVES_IT_UNTOUCHED:
            self._untouched = False
        action = self._actions.get(kind)
        if action is not None:
            action(message)
        else:
            log.warning("a message of a kind that this agent does not know")

    def _start_kernel(self, order: link_pb2.StartKernelHost) -> None:
        if self._life.state is not HostState.NONE:
            return  # asked for again by a controller that came back
        self._kernel_type = order.kernel_type or "python"
        if self._kernel_type == DENO:
            self._executions.restart_after_s = DENO_RESTART_S
        elif self._kernel_type != "python":
            self._tell(HostState.STARTING)
            self._kernel_gone(f"start_failed: no kernel of type {order.kernel_type!r} here", for_good=True)
            return
        self._want_kernel()

    def _claim(self, order: link_pb2.ClaimSandbox) -> None:
        if self._claimed:
            return  # said again by a controller that came back
        self._claimed = True
        if order.proxy:
            try:
                self._forwarder = Forwarder(self._proxy_path)
            except OSError as failed:
                self._kernel_gone(f"start_failed: {failed}", for_good=True)
                return
            self._env.update(self._forwarder.environment)
        self._env.update(order.env)
        if self._start_folder and "PYTHONPATH" in order.env:
            self._env["PYTHONPATH"] = os.pathsep.join((self._start_folder, order.env["PYTHONPATH"]))
        if self._host is not None and self._life.state is HostState.READY:
            self._host.set_environment(self._env)

    def _restart_kernel(self, order: link_pb2.RestartKernelHost) -> None:
        if order.generation == self._life.generation and self._life.state is not HostState.NONE:
            self._restart()

    def _stuck(self) -> None:
        """The cell ignores its end. A Deno kernel does so where a Python one would not: its users are told."""
        if self._kernel_type == DENO:
            self._warn(_restarted(RESTARTED, "an interrupt ended the kernel, and with it all variables"))
            self._untold = True
        self._restart()

    def _restart(self) -> None:
        self._stop_pressure()
        self._executions.kernel_gone(RESTARTED, for_good=False)
        self._calls.kernel_gone()
        self._want_kernel()

    def _interrupt(self, order: link_pb2.Interrupt) -> None:
        self._executions.interrupt(order.execution_id, order.restart_after_s)
        self._regulate()

    def _acknowledge(self, number: int) -> None:
        self._executions.acknowledged(number)
        self._outbox.acknowledge(number)

    def _environment(self) -> dict[str, str]:
        """Of programs beside the kernel."""
        user = os.environ.get("USER") or "sandbox"  # a container's uid has no entry in passwd
        own = {**os.environ, "HOME": str(self._home), "USER": user, "LOGNAME": user}
        return {**own, **self._env}

    def _ask(self, order: link_pb2.AskKernel) -> None:
        if self._host is None or self._life.state is not HostState.READY:
            self._reply(link_pb2.Reply(request=order.request, error="no kernel"))
        else:
            self._host.ask(order, self._reply)

    def _reply(self, reply: link_pb2.Reply) -> None:
        self._link.answer(link_pb2.FromAgent(reply=reply))

    def _send_comm(self, comm: outputs_pb2.Comm) -> None:
        if self._host is None or self._life.state is not HostState.READY:
            return  # the code that it was for is gone
        try:
            self._host.send_comm(comm)
        except ValueError as bad:
            log.warning("a message of a comm that is none: %s", bad)

    def _leased(self, seconds: float) -> None:
        if self._lease is not None:
            self._lease.cancel()
        self._lease = self._loop.call_later(seconds, self._end, "the controller's lease has run out")

    def _end(self, why: str) -> None:
        log.info("ends: %s", why)
        self._goodbye.set()

    # The kernel

    def _the_host(self) -> KernelHost:
        assert self._host is not None, "executions need a host only once a kernel was ready"
        return self._host

    def _tell(self, state: HostState, reason: str = "") -> None:
        self._link.tell(self._life.go(state, reason))

    def _want_kernel(self) -> None:
        self._tell(HostState.STARTING)
        self._wanted_generation = self._life.generation
        self._kernel_wanted.set()

    async def _keep_kernel(self) -> None:
        """Starts kernels, one after the other."""
        from cellyard_sandbox.jupyter import JupyterHost  # takes a while, and the Hello need not wait for it

        host = self._host = JupyterHost(self, self._processes, self._scratch, self._home, self._open_channels)
        while True:
            await self._kernel_wanted.wait()
            self._kernel_wanted.clear()
            generation = self._wanted_generation
            await host.stop()
            if self._alone and generation > 1:
                await asyncio.to_thread(self._clear)
            try:
                env = dict(self._env)
                await host.start(env)
            except (StartFailed, OSError) as failed:
                if generation == self._wanted_generation:
                    self._kernel_gone(f"start_failed: {failed}", for_good=True)
                continue
            if generation == self._wanted_generation:
                if env != self._env:  # claimed while the kernel started
                    host.set_environment(self._env)
                self._tell(HostState.READY)
                self._executions.kernel_ready()

    def _open_channels(
        self, folder: Path, shell: OnMessage, iopub: OnMessage, stdin: OnMessage, on_hang_up: Callable[[], None]
    ) -> Channels:
        return _channels_of(self._kernel_type)(folder, shell, iopub, stdin, on_hang_up)

    def _clear(self) -> None:
        for folder in (str(self._scratch), SHARED_MEMORY):
            files.empty(folder)

    def _kernel_gone(self, reason: str, *, for_good: bool) -> None:
        log.info("kernel %d is gone: %s", self._life.generation, reason)
        self._stop_pressure()
        self._executions.kernel_gone(reason, for_good=for_good)
        self._calls.kernel_gone()
        self._tell(HostState.DEAD, reason)

    # HostListener

    def run_started(self, run_id: str, execution_count: int) -> None:
        """See HostListener."""
        self._executions.run_started(run_id, execution_count)
        if self._pressure is not None:
            self._pressure.run_started()
        if self._untold:
            self._untold = False
            why = "this is a new kernel, without the variables of the one before: an interrupt ended that"
            self._warn(_restarted(NEW_KERNEL, why))
        self._calls.execution_started(run_id)
        self._regulate()

    def run_shown(self, run_id: str, item: Item) -> None:
        """See HostListener."""
        self._executions.run_shown(run_id, item)

    def run_unread(self, run_id: str) -> bool:
        """See HostListener."""
        return self._executions.run_unread(run_id)

    def run_ended(self, run_id: str, end: RunEnd) -> None:
        """See HostListener."""
        if self._pressure is not None:
            self._pressure.run_ended()
        self._executions.run_ended(run_id, end)
        self._calls.execution_ended(run_id)
        self._regulate()

    def comm_sent(self, run_id: str, comm: outputs_pb2.Comm) -> None:
        """See HostListener."""
        if not self._executions.comm_sent(run_id, comm):
            self._link.pass_on(comm)

    def host_called(self, call: HostCall, answer: Answer) -> str:
        """See HostListener."""
        return self._calls.host_called(call, answer)

    def host_call_dropped(self, call_id: str) -> None:
        """See HostListener."""
        self._calls.dropped(call_id)

    def input_asked(self, run_id: str, question: Question, answer: Answer) -> None:
        """See HostListener."""
        self._calls.input_asked(run_id, question, answer)

    def kernel_died(self, reason: str) -> None:
        """See HostListener."""
        if self._life.state is HostState.READY:  # else it is being replaced already
            self._kernel_gone(reason, for_good=True)

    # Limits

    def _disks(self) -> dict[str, str]:
        return {name: name for name in (str(self._home), str(self._scratch), SHARED_MEMORY)}

    def _warn(self, warning: outputs_pb2.Warning) -> None:
        running = self._executions.running
        if running is not None:
            self._outbox.stage(running.execution_id, link_pb2.Event(warning=warning), warning.ByteSize())

    def _stop_pressure(self) -> None:
        if self._pressure is not None:
            self._pressure.stop()

    # Back-pressure

    def _outbox_changed(self) -> None:
        self._link.outbox_changed()
        self._regulate()

    def _regulate(self) -> None:
        """Stops the kernel while too much is unacknowledged, except while a cell is to end."""
        if self._host is None or self._life.state is not HostState.READY:
            return
        if self._executions.interrupting or self._outbox.low:
            self._host.release()
        elif self._outbox.full:
            self._host.hold()


def _restarted(kind: str, message: str) -> outputs_pb2.Warning:
    return outputs_pb2.Warning(kind=kind, message=message, details={"reason": RESTARTED})


def _channels_of(kernel_type: str) -> OpenChannels:
    """By which a kernel is reached. Only what is needed is imported: ZeroMQ takes 5 MB."""
    if kernel_type == DENO:
        from cellyard_sandbox.deno import DenoChannels

        return DenoChannels
    choice = os.environ.get(KERNEL_HOST_VARIABLE) or "python"
    if choice == "python":
        from cellyard_sandbox.socket_channels import SocketChannels

        return SocketChannels
    if choice == "jupyter":
        from cellyard_sandbox.channels import ZmqChannels

        return ZmqChannels
    raise ValueError(f"{KERNEL_HOST_VARIABLE} is python or jupyter, not {choice!r}")
