"""A sandbox that is not what it should be: an agent that says anything at all to the controller.

The code in a cell owns its agent, so whatever comes over a link may be forged. It costs that notebook alone.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.message import DecodeError
from tests.random_messages import Messages

from cellyard_controller.sandboxes import link, link_messages
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_proto import PROTOCOL, framing
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import link_pb2 as pb
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

SEED = int(os.environ.get("HOSTILE_SEED", "20261121"))
MIB = 1024 * 1024


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(0)])])
def test_a_frame_is_read_or_refused_and_nothing_else(count: int) -> None:
    """The decoder of everything that an agent says: plain data, or ValueError, by which the link is closed."""
    messages = Messages(SEED)
    read = refused = 0
    for number in range(count):
        frame = pb.FromAgent()
        messages.fill(frame)
        if number % 2:
            try:
                frame = pb.FromAgent.FromString(messages.damaged(frame.SerializeToString()))
            except DecodeError:
                continue
        try:
            link_messages.decode(frame)
            read += 1
        except ValueError:
            refused += 1
    assert read > count // 10
    assert refused > count // 100


class Hostile:
    """Somebody who has taken an agent's place on its socket."""

    def __init__(self, path: Path, execution_id: str) -> None:
        self._path = path
        self.messages = Messages(SEED, (execution_id, "call-1"))
        self.execution_id = execution_id
        self.number = 0
        self.connections = 0
        self.heard = asyncio.Event()
        """All that was said is taken in, or the link was closed."""
        self._writer: asyncio.StreamWriter | None = None

    async def say(self, make: Callable[[], bytes]) -> None:
        """Sends bytes, made on a new connection where the last one was closed."""
        if self._writer is None or self._writer.is_closing():
            await self._connect()
        assert self._writer is not None
        try:
            self._writer.write(make())
            await self._writer.drain()
        except ConnectionError:
            self._writer = None

    async def close(self) -> None:
        """Hangs up."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def _connect(self) -> None:
        while True:
            reader, writer = await asyncio.open_unix_connection(str(self._path))
            ready = pb.KernelStatus(state=pb.HOST_STATE_READY, generation=1)
            hello = pb.Hello(protocol=PROTOCOL, kernel=ready, held_executions=[self.execution_id])
            writer.write(framing.encode(pb.FromAgent(hello=hello)))
            try:
                if (welcome := await framing.read(reader, pb.ToAgent)) is not None:
                    self.number = welcome.welcome.committed_number
                    self.connections += 1
                    self._writer = writer
                    self._read = asyncio.ensure_future(self._drop(reader, writer))
                    return
            except (framing.FrameError, ConnectionError):
                pass  # the one before is not quite closed yet
            writer.transport.abort()

    async def _drop(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (message := await framing.read(reader, pb.ToAgent)) is not None:
                if message.acknowledge.number >= self.number:
                    self.heard.set()
        except (framing.FrameError, ConnectionError):
            pass
        self.heard.set()
        writer.close()

    def batch(self, size: int) -> bytes:
        """Events of all kinds: of its execution, of others, with right and with wrong numbers."""
        batch = pb.Batch()
        while len(batch.events) < size:
            event = pb.Event()
            self.messages.fill(event)
            if event.HasField("ended") or not (self._readable(event) or self.messages.random.random() < 0.001):
                continue  # one that cannot be read closes the link, and what is behind it is not tried
            if self.messages.random.random() < 0.95:
                event.execution_id = self.execution_id
            if self.messages.random.random() < 0.999:
                self.number += 1
                event.number = self.number
            batch.events.append(event)
        return framing.encode(pb.FromAgent(batch=batch))

    @staticmethod
    def _readable(event: pb.Event) -> bool:
        try:
            link_messages.decode(pb.FromAgent(batch=pb.Batch(events=[event])))
        except ValueError:
            return False
        return True


def sandbox_of(yard: Yard, notebook: str) -> Sandbox:
    """The sandbox that a notebook has."""
    found = (each for each in yard.controller.supervisor.sandboxes() if each.notebook)
    return next(each for each in found if each.notebook and each.notebook.notebook_id == notebook)


@asynccontextmanager
async def taken_over(yard: Yard, stubs: Stubs) -> AsyncIterator[Hostile]:
    """A notebook whose cell runs, and whose agent somebody else is now."""
    stream = stubs.start("bad", "gate never")
    accepted = (await anext(aiter(stream))).accepted
    await yard.runtime.reached("never")
    sandbox = sandbox_of(yard, "bad")
    yard.runtime.drop_link(sandbox.instance_id, stay_away=True)
    hostile = Hostile(sandbox.link.folder / link.SOCKET_NAME, accepted.execution_id)
    yield hostile
    await hostile.close()
    stream.cancel()


async def p95_of_runs(stubs: Stubs, stop: asyncio.Event) -> float:
    """How long runs in another notebook take meanwhile, in seconds."""
    times: list[float] = []
    while not stop.is_set() or len(times) < 20:
        started = time.perf_counter()
        assert (await stubs.run("good", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
        times.append(time.perf_counter() - started)
    return sorted(times)[int(len(times) * 0.95)]


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_forged_events_cost_their_notebook_alone(yard: Yard, caplog: Any) -> None:
    """Tens of thousands of events of any kind: others' runs stay quick, the memory small, nothing fails inside."""
    stubs = await yard.start()
    await stubs.run("good", "value 1")
    async with taken_over(yard, stubs) as hostile:
        stop = asyncio.Event()
        others = asyncio.ensure_future(p95_of_runs(stubs, stop))
        before = resident()
        for _ in range(30):
            hostile.heard.clear()
            for _ in range(10):
                await hostile.say(partial(hostile.batch, 50))
            await hostile.heard.wait()
        stop.set()
        assert await others < 1.0
        assert resident() - before < 100 * MIB
        (execution,) = (await stubs.executions.List(ex.ListExecutions(notebook_id="bad"))).executions
        assert execution.state == ex.EXECUTION_STATE_STARTED
        assert 1 <= hostile.connections < 100
        told = stubs.executions.Get(ex.GetExecution(notebook_id="bad", execution_id=hostile.execution_id))
        assert (await told).last_seq > 1000
    good = (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="good"))).cells
    assert {output.execute_result.data["text/plain"].text for cell in good for output in cell.outputs} == {"1"}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(struct.pack(">I", 2**32 - 1) + b"x" * 100, id="a frame of 4 GiB"),
        pytest.param(struct.pack(">I", framing.MAX_FRAME) + b"x" * 1000, id="a frame that never ends"),
        pytest.param(b"\xff" * 10_000, id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(framing.encode(pb.FromAgent(hello=pb.Hello(protocol=PROTOCOL))), id="a second hello"),
        pytest.param(framing.encode(pb.FromAgent()), id="nothing in a frame"),
    ],
)
async def test_what_is_no_frame_closes_the_link_and_the_agent_may_come_back(yard: Yard, content: bytes) -> None:
    stubs = await yard.start()
    async with taken_over(yard, stubs) as hostile:
        await hostile.say(lambda: content)
        await hostile.close()
        assert (await stubs.run("good", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    yard.runtime.let_dial(sandbox_of(yard, "bad").instance_id)
    yard.runtime.open("never")
    (execution,) = (await stubs.executions.List(ex.ListExecutions(notebook_id="bad"))).executions
    attached = stubs.executions.Attach(ex.AttachExecution(notebook_id="bad", execution_id=execution.execution_id))
    events = [event async for event in attached]
    assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED


async def test_an_agent_cannot_speak_of_others_executions(yard: Yard) -> None:
    """It ends, and adds to, what was sent to it, and nothing else."""
    stubs = await yard.start()
    victim = stubs.start("victim", "gate mine")
    other = (await anext(aiter(victim))).accepted
    await yard.runtime.reached("mine")
    waiting = stubs.start("bad", "gate never")
    await anext(aiter(waiting))
    await yard.runtime.reached("never")
    queued = stubs.start("bad", "value 2")
    behind = (await anext(aiter(queued))).accepted
    bad = sandbox_of(yard, "bad")
    yard.runtime.drop_link(bad.instance_id, stay_away=True)
    hostile = Hostile(bad.link.folder / link.SOCKET_NAME, other.execution_id)
    await hostile.say(bytes)
    numbers = itertools.count(hostile.number + 1)
    batch = pb.Batch()
    for execution_id in (other.execution_id, behind.execution_id, "nobody's"):
        batch.events.add(
            number=next(numbers), execution_id=execution_id, started=pb.ExecutionStarted(execution_count=9)
        )
        event = batch.events.add(number=next(numbers), execution_id=execution_id)
        event.output.stream.name, event.output.stream.text = "stdout", "forged"
        batch.events.add(
            number=next(numbers), execution_id=execution_id, ended=pb.ExecutionEnded(outcome=pb.OUTCOME_OK)
        )
    await hostile.say(lambda: framing.encode(pb.FromAgent(batch=batch)))
    await hostile.say(lambda: framing.encode(pb.FromAgent(pong=pb.Pong(id=1))))
    await hostile.close()
    yard.runtime.open("mine")
    assert (await ended(stubs, "victim", other.execution_id)).end == ex.EXECUTION_END_SUCCEEDED
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="bad"))
    cancelled = await ended(stubs, "bad", behind.execution_id)
    assert (cancelled.end, list(cancelled.outputs)) == (ex.EXECUTION_END_CANCELLED, [])


async def ended(stubs: Stubs, notebook: str, execution_id: str) -> ex.Execution:
    """An execution, once it has ended; nothing that was forged is in it."""
    async for event in stubs.executions.Attach(ex.AttachExecution(notebook_id=notebook, execution_id=execution_id)):
        assert "forged" not in event.output.stream.text
    get = ex.GetExecution(notebook_id=notebook, execution_id=execution_id)
    return cast("ex.Execution", await stubs.executions.Get(get))
