"""The controller's end of a link, as small as it can be: what agents say is kept, what a test says is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from cellyard_controller.sandboxes.flows import Flows
from cellyard_proto import framing
from cellyard_proto.v1 import link_pb2 as link

T = TypeVar("T")
BOUND = 20.0


class LinkServer:
    """Listens where one agent dials. Acknowledges nothing by itself."""

    def __init__(self) -> None:
        self.hellos: list[link.Hello] = []
        self.events: list[link.Event] = []
        self.statuses: list[link.KernelStatus] = []
        self.pongs: list[int] = []
        self.welcome = link.Welcome(output_bytes=1 << 20, output_count=1000, link_grace_s=600)
        self.flows = Flows(self.send, lambda: self._writer is not None)
        self._writer: asyncio.StreamWriter | None = None
        self._heard = asyncio.Condition()

    @asynccontextmanager
    async def listening(self, link_dir: Path) -> AsyncIterator[LinkServer]:
        """Serves as long as the block runs."""
        path = link_dir / "agent.sock"
        server = await asyncio.start_unix_server(self._serve, str(path))
        path.chmod(0o666)
        try:
            yield self
        finally:
            server.close()
            if self._writer is not None:
                self._writer.close()
            await server.wait_closed()
            path.unlink(missing_ok=True)

    def send(self, message: link.ToAgent) -> None:
        """Says something to the agent that is connected."""
        assert self._writer is not None
        self._writer.write(framing.encode(message))

    def dispatch(self, execution_id: str, source: str, timeout_s: float = 0.0) -> None:
        """Asks for an execution."""
        order = link.Dispatch(execution_id=execution_id, source=source, timeout_s=timeout_s)
        self.send(link.ToAgent(dispatch=order))

    async def until(self, seen: Callable[[], T]) -> T:
        """What `seen` returns, once that is true."""
        async with asyncio.timeout(BOUND), self._heard:
            await self._heard.wait_for(seen)
        return seen()

    async def connected(self, times: int = 1) -> link.Hello:
        """The Hello of the agent's connection with this number."""
        await self.until(lambda: len(self.hellos) >= times and self._writer is not None)
        return self.hellos[times - 1]

    async def ready(self) -> None:
        """Starts the kernel and returns once it is there."""
        await self.connected()
        self.send(link.ToAgent(start_kernel=link.StartKernelHost(kernel_type="python")))
        await self.until(lambda: self.statuses and self.statuses[-1].state == link.HOST_STATE_READY)

    async def end(self, execution_id: str) -> link.ExecutionEnded:
        """How an execution ended."""
        ends = await self.until(
            lambda: [e for e in self.events if e.execution_id == execution_id and e.HasField("ended")]
        )
        return ends[0].ended

    async def started(self, execution_id: str) -> None:
        """Returns once an execution has started."""
        await self.until(lambda: any(e.execution_id == execution_id and e.HasField("started") for e in self.events))

    def kinds(self, execution_id: str) -> list[str | None]:
        """The kinds of an execution's events, in order."""
        return [e.WhichOneof("event") for e in self.events if e.execution_id == execution_id]

    def text(self, execution_id: str, stream: str = "stdout") -> str:
        """What an execution wrote."""
        mine = [e.output.stream for e in self.events if e.execution_id == execution_id]
        return "".join(part.text for part in mine if part.name == stream)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (message := await framing.read(reader, link.FromAgent)) is not None:
                async with self._heard:
                    self._keep(message, writer)
                    self._heard.notify_all()
        except (framing.FrameError, ConnectionError):
            pass  # an agent was killed in the middle of a word
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()

    def _keep(self, message: link.FromAgent, writer: asyncio.StreamWriter) -> None:
        match message.WhichOneof("message"):
            case "hello":
                self.hellos.append(message.hello)
                self._writer = writer
                self.send(link.ToAgent(welcome=self.welcome))
            case "batch":
                self.events += message.batch.events
            case "kernel":
                self.statuses.append(message.kernel)
            case "pong":
                self.pongs.append(message.pong.id)
            case "flow":
                self.flows.heard(message.flow)
