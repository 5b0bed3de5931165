"""A small controller that speaks the agent link, and the agent process that it talks to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellyard_controller.sandboxes.flows import FlowFailed, Flows, WriteFile
from cellyard_proto import framing
from cellyard_proto.outputs import NbOutput, OutputFold, data_to_nbformat, to_nbformat
from cellyard_proto.v1 import calls_pb2, link_pb2, manner_pb2, outputs_pb2

WAIT_S = 60.0


class Record:
    """What came in for one execution."""

    def __init__(self) -> None:
        self.events: list[link_pb2.Event] = []

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") or "" for event in self.events]

    @property
    def started(self) -> bool:
        return "started" in self.kinds

    @property
    def ended(self) -> link_pb2.ExecutionEnded | None:
        ends = [event.ended for event in self.events if event.HasField("ended")]
        assert len(ends) <= 1, "an execution has one end"
        return ends[0] if ends else None

    @property
    def end(self) -> link_pb2.ExecutionEnded:
        assert self.ended is not None
        return self.ended

    @property
    def outcome(self) -> str:
        return link_pb2.Outcome.Name(self.end.outcome).removeprefix("OUTCOME_").lower()

    @property
    def value(self) -> outputs_pb2.Value | None:
        return self.end.value if self.end.HasField("value") else None

    @property
    def outputs(self) -> list[NbOutput]:
        fold = OutputFold()
        for event in self.events:
            match event.WhichOneof("event"):
                case "output":
                    fold.append(to_nbformat(event.output))
                case "clear_output":
                    fold.clear(wait=event.clear_output.wait)
                case "display_updated":
                    updated = event.display_updated
                    fold.update_display(updated.display_id, data_to_nbformat(updated.data), {})
        return fold.outputs()

    @property
    def calls(self) -> list[calls_pb2.HostCall]:
        return [event.host_call for event in self.events if event.HasField("host_call")]

    @property
    def questions(self) -> list[calls_pb2.InputRequested]:
        return [event.input_requested for event in self.events if event.HasField("input_requested")]

    @property
    def comms(self) -> list[outputs_pb2.Comm]:
        return [event.comm for event in self.events if event.HasField("comm")]

    def text(self, name: str = "stdout") -> str:
        """Everything that was written to a stream, as it came."""
        streams = (event.output.stream for event in self.events if event.output.HasField("stream"))
        return "".join(stream.text for stream in streams if stream.name == name)

    @property
    def error(self) -> outputs_pb2.ErrorOutput | None:
        errors = [event.output.error for event in self.events if event.output.HasField("error")]
        return errors[-1] if errors else None


class Controller:
    """The controller's end of one link. Checks every number that it is given."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent.sock"
        self.records: dict[str, Record] = {}
        self.committed = 0
        self.received = 0
        self.acknowledges = True
        self.reading = asyncio.Event()
        self.reading.set()
        self.hellos: list[link_pb2.Hello] = []
        self.kernel = link_pb2.KernelStatus()
        self.statuses: list[link_pb2.KernelStatus] = []
        self.pongs: list[int] = []
        self.replies: dict[int, str] = {}
        self.contents: dict[int, str] = {}
        self.comms: list[outputs_pb2.Comm] = []
        self.welcome = link_pb2.Welcome(link_grace_s=30.0)
        self.connected = False
        self._changed = asyncio.Condition()
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._requests = 0
        self.flows = Flows(lambda message: self.send_bytes(framing.encode(message)), lambda: self.connected)

    async def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=2**20)

    async def close(self) -> None:
        """Stops listening and drops the connection, as a controller does that dies."""
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Closes the connection; the agent may come again."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        self.connected = False
        self.flows.broken()

    def hang_up(self) -> None:
        """Closes the connection once the agent has what was sent; the agent may come again."""
        assert self._writer is not None, "no agent is connected"
        self._writer.close()

    def send(self, **message: Any) -> None:
        self.send_bytes(framing.encode(link_pb2.ToAgent(**message)))

    def send_bytes(self, data: bytes) -> None:
        """Sends what need not be a message."""
        assert self._writer is not None, "no agent is connected"
        self._writer.write(data)

    async def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Waits for what the agent says."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), timeout_s)

    def record(self, execution_id: str) -> Record:
        return self.records.setdefault(execution_id, Record())

    async def start_kernel(self, env: dict[str, str] | None = None) -> None:
        await self.until(lambda: self.connected)
        self.send(start_kernel=link_pb2.StartKernelHost(kernel_type="python"))
        await self.until(lambda: self.kernel.state == link_pb2.HOST_STATE_READY)
        if env:
            self.claim(env)

    def claim(self, env: dict[str, str], *, proxy: bool = False) -> None:
        self.send(claim=link_pb2.ClaimSandbox(env=env, proxy=proxy))

    def dispatch(
        self, execution_id: str, source: str, timeout_s: float = 0, *, allow_stdin: bool = False, **manner: Any
    ) -> Record:
        """`manner`: the fields of a Manner."""
        order = link_pb2.Dispatch(
            execution_id=execution_id,
            source=source,
            timeout_s=timeout_s,
            allow_stdin=allow_stdin,
            manner=manner_pb2.Manner(**manner) if manner else None,
        )
        self.send(dispatch=order)
        return self.record(execution_id)

    async def run(
        self, execution_id: str, source: str, timeout_s: float = 0, *, allow_stdin: bool = False, **manner: Any
    ) -> Record:
        """Runs a source to its end."""
        record = self.dispatch(execution_id, source, timeout_s, allow_stdin=allow_stdin, **manner)
        await self.until(lambda: record.ended is not None)
        return record

    def interrupt(self, execution_id: str, restart_after_s: float = 0) -> None:
        self.send(interrupt=link_pb2.Interrupt(execution_id=execution_id, restart_after_s=restart_after_s))

    async def restart(self) -> None:
        generation = self.kernel.generation
        self.send(restart_kernel=link_pb2.RestartKernelHost(generation=generation))
        await self.until(
            lambda: self.kernel.generation == generation + 1 and self.kernel.state == link_pb2.HOST_STATE_READY
        )

    async def put_file(self, name: str, content: bytes) -> str:
        """Returns the error, "" for none."""
        try:
            async with self.flows.open(WriteFile(name, len(content))) as flow:
                await flow.send(content)
                await flow.done()
        except FlowFailed as failed:
            return str(failed)
        return ""

    async def call(self, record: Record, number: int = 1) -> calls_pb2.HostCall:
        """The execution's host call of this number, once it is made."""
        await self.until(lambda: len(record.calls) >= number or record.ended is not None)
        return record.calls[number - 1]

    async def question(self, record: Record, number: int = 1) -> calls_pb2.InputRequested:
        """The execution's question for input of this number, once it is asked."""
        await self.until(lambda: len(record.questions) >= number or record.ended is not None)
        return record.questions[number - 1]

    def answer(self, call_id: str, **answer: Any) -> None:
        self.send(answer=link_pb2.CallAnswer(call_id=call_id, **answer))

    async def ask(self, within_s: float = WAIT_S, **what: Any) -> tuple[str, dict[str, Any]]:
        """Asks the kernel. Returns the error, "" for none, and the content of the reply."""
        self._requests += 1
        request = self._requests
        self.send(ask=link_pb2.AskKernel(request=request, within_s=within_s, **what))
        await self.until(lambda: request in self.replies)
        return self.replies[request], json.loads(self.contents[request] or "{}")

    def acknowledge(self) -> None:
        """Commits everything that has come."""
        self.committed = self.received
        self.send(acknowledge=link_pb2.Acknowledge(number=self.committed))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await framing.read(reader, link_pb2.FromAgent)
        assert hello is not None
        assert hello.HasField("hello")
        self._writer = writer
        self.received = self.committed  # what was not committed died with the controller
        self.welcome.committed_number = self.committed
        self.send(welcome=self.welcome)
        self.kernel = hello.hello.kernel
        self.hellos.append(hello.hello)
        self.connected = True
        await self._notify()
        try:
            while True:
                await self.reading.wait()
                message = await framing.read(reader, link_pb2.FromAgent)
                if message is None or self._writer is not writer:
                    break
                self._receive(message)
                await self._notify()
        except (framing.FrameError, ConnectionError):
            pass
        finally:
            if self._writer is writer:
                self._writer, self.connected = None, False
                self.flows.broken()
            writer.close()
            await self._notify()

    def _receive(self, message: link_pb2.FromAgent) -> None:
        match message.WhichOneof("message"):
            case "batch":
                for event in message.batch.events:
                    assert event.number == self.received + 1, (event.number, self.received)
                    self.received = event.number
                    self.record(event.execution_id).events.append(event)
                if self.acknowledges:
                    self.acknowledge()
            case "kernel":
                self.kernel = message.kernel
                self.statuses.append(message.kernel)
            case "pong":
                self.pongs.append(message.pong.id)
            case "reply":
                self.contents[message.reply.request] = message.reply.content_json
                self.replies[message.reply.request] = message.reply.error
            case "comm":
                self.comms.append(message.comm)
            case "flow":
                self.flows.heard(message.flow)

    def forget_uncommitted(self) -> None:
        """What a controller that dies has not committed."""
        for record in self.records.values():
            record.events = [event for event in record.events if event.number <= self.committed]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class AgentProcess:
    """A real agent, as the process runtime starts it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.scratch = folder / "scratch"
        self.home.mkdir()
        self.scratch.mkdir()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, link: Path, env: dict[str, str] | None = None) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cellyard_sandbox", "--link", str(link)),
            *("--home", str(self.home), "--scratch", str(self.scratch)),
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def ended(self, timeout_s: float = WAIT_S) -> int:
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), timeout_s)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self.ended()
