"""Processes: commands beside the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from cellyard_controller.api import requests
from cellyard_controller.api.access import Access, Caller, duplex
from cellyard_controller.api.visiting import visit
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.flows import Content, Done, Flow, FlowBroken, FlowFailed, Opened
from cellyard_proto.v1 import processes_pb2 as pb
from cellyard_proto.v1 import processes_pb2_grpc

_PART = 1024 * 1024
_SLACK = 64 * 1024
"""Bytes that an agent may send past the limit before it is taken for one that lies."""


class Processes(processes_pb2_grpc.ProcessesServicer):
    """The Processes service."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self.access, self._rooms, self._config = access, rooms, config

    @duplex
    async def Exec(  # noqa: N802
        self, messages: AsyncIterator[pb.ExecInput], caller: Caller
    ) -> AsyncGenerator[pb.ExecOutput, None]:
        """A command, from its start to its end."""
        first = await anext(aiter(messages), pb.ExecInput())
        if first.WhichOneof("input") != "start":
            raise InvalidRequest("the first message of a command starts it")
        ref = requests.notebook(first.start.notebook_id, caller, self._config)
        command = requests.command(first.start, self._config.limits)
        left = command.max_output + _SLACK
        async with visit(self._rooms, ref, command) as flow, _feeding(flow, messages) as feeder:
            while not isinstance(said := await _next(flow, feeder), Done):
                if isinstance(said, Opened):
                    yield pb.ExecOutput(started=pb.ExecStarted(pid=said.pid))
                    continue
                left -= len(said.content)
                if left < 0:
                    raise FlowFailed("failed", "the sandbox sends more output than was asked for")
                yield pb.ExecOutput(stderr=said.content) if said.stderr else pb.ExecOutput(stdout=said.content)
        yield pb.ExecOutput(
            ended=pb.ExecEnded(
                exit_code=said.exit_code,
                signal=said.signal,
                timed_out=said.timed_out,
                discarded_bytes=said.discarded_bytes,
                wall_s=said.wall_s,
            )
        )


@asynccontextmanager
async def _feeding(flow: Flow, messages: AsyncIterator[pb.ExecInput]) -> AsyncIterator[asyncio.Task[None]]:
    """Hands on what the client sends, as long as the block runs."""
    feeder = asyncio.create_task(_feed(flow, messages))
    try:
        yield feeder
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(flow: Flow, messages: AsyncIterator[pb.ExecInput]) -> None:
    try:
        async for message in messages:
            kind = message.WhichOneof("input")
            if kind == "stdin_end":
                break
            if kind != "stdin" or len(message.stdin) > _PART:
                raise InvalidRequest(f"a command is started once, and what it reads comes in parts of {_PART} bytes")
            await flow.send(message.stdin)
        flow.end_input()
    except (FlowBroken, FlowFailed):
        pass  # whoever reads its output is told the same


async def _next(flow: Flow, feeder: asyncio.Task[None]) -> Opened | Content | Done:
    """What the command says next; or why it cannot be fed, where that comes first."""
    if feeder.done():
        feeder.result()
        return await flow.next()
    hearing = asyncio.ensure_future(flow.next())
    try:
        await asyncio.wait((hearing, feeder), return_when=asyncio.FIRST_COMPLETED)
        if feeder.done():
            feeder.result()
        return await hearing
    finally:
        hearing.cancel()
