"""The controller's end of the agent link: one unix socket a sandbox, framed protobuf, untrusted input.

The socket is the sandbox's identity: what comes over it is of that sandbox, whatever it says. Protocol buffers stop
here; owners see plain data. A frame is handled before the next one is read, so a flooding agent waits on its own
socket.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from cellyard_controller.executions.calls import Answer
from cellyard_controller.executions.model import USUAL, Manner
from cellyard_controller.executions.reports import (
    CommSaid,
)
from cellyard_controller.ids import ExecutionId, SandboxId
from cellyard_controller.sandboxes.flows import Flows
from cellyard_controller.sandboxes.link_messages import (
    AgentHello,
    FromAgent,
    Greeting,
    Question,
    comm_message,
    decode,
    hello_of,
    history_message,
    manner_message,
)
from cellyard_controller.sandboxes.tenure import Tenure
from cellyard_proto import PROTOCOL, framing
from cellyard_proto.v1 import calls_pb2
from cellyard_proto.v1 import link_pb2 as pb

SOCKET_NAME = "agent.sock"
MAX_SOCKET_PATH = 107
_MAX_UNSENT = 64 * 1024 * 1024
_HELLO_WITHIN = 10.0

log = structlog.get_logger()


class LinkOwner(Protocol):
    """Who a sandbox belongs to: the supervisor until it is claimed, then a room."""

    async def link_up(self, hello: AgentHello) -> Greeting:
        """The agent has connected. What is returned is sent as the first frame."""

    async def link_ready(self) -> None:
        """The greeting is sent; from here on the owner may send."""

    async def link_received(self, message: FromAgent) -> None:
        """The agent says something."""

    async def link_down(self) -> None:
        """The connection has ended; the agent may come back."""


class AgentLink:
    """The socket of one sandbox and the connection on it, if there is one."""

    def __init__(
        self, sandbox_id: SandboxId, folder: Path, uid: int, owner: LinkOwner, tenure: Tenure | None = None
    ) -> None:
        self.sandbox_id = sandbox_id
        self.folder = folder
        self.owner = owner
        self.last_heard = math.inf  # nobody is silent who could not speak yet
        """Loop time of the last frame, or of the moment since which the agent could have dialled."""
        self.flows = Flows(self._send, lambda: self._greeted)
        """What is done in the sandbox beside its kernel."""
        self.on_up: Callable[[bool], None] = lambda again: None
        """Called when the agent is connected and greeted; `again`: not for the first time."""
        self._came_before = False
        self.whose: Mapping[str, str] = {}
        """Tenant and notebook that the sandbox is claimed by, for the log."""
        self._uid, self._tenure = uid, tenure or Tenure()
        self._postponed: list[pb.ToAgent] = []
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._greeted = False
        self._closed = False
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether the agent is connected and greeted."""
        return self._greeted

    @property
    def held(self) -> bool:
        """Whether the agent is connected and waits to be greeted."""
        return self._writer is not None and not self._greeted

    async def open(self) -> None:
        """Makes the folder and listens. The path stays the same over restarts of the controller."""
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        path = self.folder / SOCKET_NAME
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, str(path))
        self.last_heard = asyncio.get_running_loop().time()
        if os.geteuid() == 0:
            path.chmod(0o600)  # while it is ours: in a container root may give away, and not change what is another's
            os.chown(path, self._uid, self._uid)
        else:
            path.chmod(0o666)  # the folder above is 0700: only the sandbox's own mount reaches it

    async def close(self) -> None:
        """Stops listening and hangs up."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def remove_folder(self) -> None:
        """Takes the folder away with what a controller has put there, when the sandbox has ended."""
        for left in self.folder.glob("*.sock"):  # a way out too, where its controller died as it opened it
            left.unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            pass

    # What the controller says. Without a connection nothing is sent: the owner says it again after link_up.

    def start_kernel(self, kernel_type: str) -> None:
        """Starts the kernel; once in a sandbox's life."""
        self._send(pb.ToAgent(start_kernel=pb.StartKernelHost(kernel_type=kernel_type)))

    def claim(self, env: Mapping[str, str], *, proxy: bool) -> None:
        """The kernel is somebody's, who wants these variables set; `proxy`: with its way out through a socket.

        The agent takes the first one, so it may be said again.
        """
        self._send(pb.ToAgent(claim=pb.ClaimSandbox(env=env, proxy=proxy)))

    def dispatch(
        self,
        execution_id: ExecutionId,
        source: str,
        timeout_s: float | None,
        cell_id: str,
        *,
        allow_stdin: bool,
        namespaces: bool,
        traceparent: str = "",
        manner: Manner = USUAL,
    ) -> None:
        """Runs a source; the agent takes an execution id once. While nothing may be begun it is held back."""
        order = pb.Dispatch(
            execution_id=execution_id,
            source=source,
            timeout_s=timeout_s or 0.0,
            cell_id=cell_id,
            allow_stdin=allow_stdin,
            namespaces=namespaces,
            traceparent=traceparent,
            manner=manner_message(manner),
        )
        if self._tenure.may_begin:
            self._send(pb.ToAgent(dispatch=order))
        else:
            self._postponed.append(pb.ToAgent(dispatch=order))

    def answer(self, call_id: str, answer: Answer) -> None:
        """Answers a call of the code; the agent takes the first answer."""
        message = pb.CallAnswer(call_id=call_id)
        if answer.kind == "value":
            message.value_json = answer.content
        elif answer.kind == "text":
            message.text = answer.content
        elif answer.kind == "error":
            message.error.CopyFrom(calls_pb2.CallError(name=answer.name, message=answer.content))
        else:
            message.unavailable = answer.content
        self._send(pb.ToAgent(answer=message))

    def ask(self, request: int, question: Question, within_s: float) -> None:
        """Asks the kernel something; answered."""
        message = pb.AskKernel(request=request, within_s=within_s)
        code, cursor = question.code, question.cursor
        if question.kind == "complete":
            message.complete.CopyFrom(pb.AskComplete(code=code, cursor=cursor))
        elif question.kind == "inspect":
            message.inspect.CopyFrom(pb.AskInspect(code=code, cursor=cursor, detail_level=question.detail_level))
        elif question.kind == "is_complete":
            message.is_complete.CopyFrom(pb.AskIsComplete(code=code))
        elif question.kind == "info":
            message.info.CopyFrom(pb.AskInfo())
        else:
            message.history.CopyFrom(history_message(question))
        self._send(pb.ToAgent(ask=message))

    def comm(self, said: CommSaid) -> None:
        """Gives the kernel a comm's message."""
        self._send(pb.ToAgent(comm=comm_message(said)))

    def interrupt(self, execution_id: ExecutionId, restart_after_s: float = 0.0) -> None:
        """Interrupts an execution until it is idle."""
        message = pb.Interrupt(execution_id=execution_id, restart_after_s=restart_after_s)
        self._send(pb.ToAgent(interrupt=message))

    def acknowledge(self, number: int) -> None:
        """Reports up to this number are committed."""
        self._send(pb.ToAgent(acknowledge=pb.Acknowledge(number=number)))

    def restart_kernel(self, generation: int) -> None:
        """Replaces the kernel of this generation by a fresh one."""
        self._send(pb.ToAgent(restart_kernel=pb.RestartKernelHost(generation=generation)))

    def ping(self) -> None:
        """Asks for a sign of life."""
        self._send(pb.ToAgent(ping=pb.Ping(id=1)))

    def tell_tenure(self) -> None:
        """Tells the agent how long its sandbox may go on, where that has an end, and what was held back until now."""
        left = self._tenure.left()
        if left is not None:
            self._send(pb.ToAgent(lease=pb.Lease(left_s=left)))
        if self._tenure.may_begin:
            postponed, self._postponed = self._postponed, []
            for message in postponed:
                self._send(message)

    def goodbye(self, reason: str) -> None:
        """Ends the agent."""
        self._send(pb.ToAgent(goodbye=pb.Goodbye(reason=reason)))

    # Inside

    def _send(self, message: pb.ToAgent) -> None:
        writer = self._writer
        if writer is None or not self._greeted or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > _MAX_UNSENT:
            log.warning("agent does not read, hanging up", sandbox=self.sandbox_id, **self.whose)
            writer.transport.abort()
            return
        writer.write(framing.encode(message))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closed:  # it came in the moment in which everything was closed
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (framing.FrameError, ValueError, ConnectionError) as bad:
            log.warning("link closed", sandbox=self.sandbox_id, why=str(bad)[:200], **self.whose)
        except TimeoutError:
            log.warning("link closed", sandbox=self.sandbox_id, why="no hello", **self.whose)
        except asyncio.CancelledError:
            pass  # close() ends connections this way
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            raise ValueError("a second connection while the first one stands")
        async with asyncio.timeout(_HELLO_WITHIN):
            first = await framing.read(reader, pb.FromAgent)
        if first is None:
            return
        if first.WhichOneof("message") != "hello" or first.hello.protocol != PROTOCOL:
            raise ValueError("the first frame is no hello of this protocol")
        if self._writer is not None:
            raise ValueError("a second connection while the first one stands")
        self._writer = writer
        try:
            loop = asyncio.get_running_loop()
            self.last_heard = loop.time()
            greeting = await self.owner.link_up(hello_of(first.hello, _peer_pid(writer)))
            self._greeted = True
            self._send(
                pb.ToAgent(
                    welcome=pb.Welcome(
                        committed_number=greeting.committed_number,
                        output_bytes=greeting.output_bytes,
                        output_count=greeting.output_count,
                        link_grace_s=greeting.link_grace_s,
                    )
                )
            )
            self.tell_tenure()
            self.on_up(self._came_before)
            self._came_before = True
            await self.owner.link_ready()
            while (frame := await framing.read(reader, pb.FromAgent)) is not None:
                self.last_heard = loop.time()
                if frame.HasField("flow"):
                    self.flows.heard(frame.flow)
                elif (message := decode(frame)) is not None:
                    await self.owner.link_received(message)
        finally:
            self._writer = None
            self._greeted = False
            self._postponed.clear()  # whoever greets it again says it again
            self.last_heard = asyncio.get_running_loop().time()
            self.flows.broken()
            await self.owner.link_down()


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    """Which process dialled, by the kernel's word."""
    end = writer.get_extra_info("socket")
    pid, _, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(pid)
