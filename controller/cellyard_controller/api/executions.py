"""Executions: accepted, followed, read and cancelled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

from cellyard_controller.api import requests, responses
from cellyard_controller.api.access import Access, Caller, stream, unary
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import CellId, ExecutionId, SessionId
from cellyard_controller.notebooks.room import Room
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.notebooks.runner import Order
from cellyard_controller.tracing import CALL
from cellyard_proto.v1 import executions_pb2 as pb
from cellyard_proto.v1 import executions_pb2_grpc

_MAX_LISTED = 1000
_BLOB_CHUNK = 256 * 1024
"""Bytes of a large part in one message."""


class Executions(executions_pb2_grpc.ExecutionsServicer):
    """The Executions service."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self.access, self._rooms, self._config = access, rooms, config

    @stream
    async def Execute(self, message: pb.Start, caller: Caller) -> AsyncIterator[pb.ExecutionEvent]:  # noqa: N802
        """Accepts an execution and streams what happens."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        order = self._order(message, caller)
        async with self._rooms.use(ref) as room:
            accepted = await room.runs.execute(order)
            yield pb.ExecutionEvent(accepted=responses.execution(ref, accepted))
            async for event in _events(room, accepted.execution_id, 0, order.session_id):
                yield event

    @unary
    async def Enqueue(self, message: pb.Start, caller: Caller) -> pb.Execution:  # noqa: N802
        """Accepts an execution."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        order = self._order(message, caller)
        async with self._rooms.use(ref) as room:
            return responses.execution(ref, await room.runs.execute(order))

    @stream
    async def Attach(  # noqa: N802
        self, message: pb.AttachExecution, caller: Caller
    ) -> AsyncIterator[pb.ExecutionEvent]:
        """The stream of an execution again."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        execution_id = ExecutionId(message.execution_id)
        session = requests.session(message.session_id, self._config)
        async with self._rooms.use(ref, create=False) as room:
            found = await room.runs.get(execution_id)
            yield pb.ExecutionEvent(accepted=responses.execution(ref, found))
            async for event in _events(room, execution_id, message.after_seq, session):
                yield event

    @unary
    async def Get(self, message: pb.GetExecution, caller: Caller) -> pb.Execution:  # noqa: N802
        """One execution with its outputs."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.execution(ref, await room.runs.get(ExecutionId(message.execution_id)))

    @unary
    async def List(self, message: pb.ListExecutions, caller: Caller) -> pb.ListExecutionsResponse:  # noqa: N802
        """Executions, newest first."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        if message.limit < 0:
            raise InvalidRequest(f"a limit is not negative: {message.limit}")
        before = ExecutionId(message.before_execution_id) if message.before_execution_id else None
        async with self._rooms.use(ref, create=False) as room:
            found = await room.runs.recent(min(message.limit or 100, _MAX_LISTED), before)
        return pb.ListExecutionsResponse(executions=[responses.execution(ref, each) for each in found])

    @unary
    async def Cancel(self, message: pb.CancelExecution, caller: Caller) -> pb.Execution:  # noqa: N802
        """Ends one execution."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.execution(ref, await room.runs.cancel(request, ExecutionId(message.execution_id)))

    @unary
    async def Answer(self, message: pb.AnswerCall, caller: Caller) -> pb.AnswerCallResponse:  # noqa: N802
        """Answers a call of the code."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        answer = requests.answer(message, self._config.limits)
        if message.request_id:
            requests.identifier(message.request_id, "the request id", self._config.limits)
        async with self._rooms.use(ref, create=False) as room:
            accepted = await room.runs.answer(
                ExecutionId(message.execution_id), message.call_id, message.request_id, answer
            )
        return pb.AnswerCallResponse(accepted=accepted)

    @stream
    async def ReadBlob(  # noqa: N802
        self, message: pb.ReadBlobRequest, caller: Caller
    ) -> AsyncIterator[pb.BlobChunk]:
        """A large part of an output."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        with await self._rooms.blob(ref, message.digest) as file:
            size, offset = os.fstat(file.fileno()).st_size, message.offset
            if not 0 <= offset <= size:
                raise InvalidRequest(f"the offset {offset} is not within the {size} bytes of {message.digest}")
            while True:
                content = await asyncio.to_thread(os.pread, file.fileno(), _BLOB_CHUNK, offset)
                yield pb.BlobChunk(content=content, size=size)
                offset += len(content)
                if offset >= size or not content:
                    return

    def _order(self, message: pb.Start, caller: Caller) -> Order:
        what = message.WhichOneof("what")
        if what is None:
            raise InvalidRequest("neither a source nor a cell to execute")
        new = message.source if what == "source" else None
        cell_id = CellId(message.cell_id) if new is None else requests.cell(new.cell_id, self._config)
        timeout = None
        if message.HasField("timeout_s"):
            timeout = requests.seconds(message.timeout_s, "the timeout")
        return Order(
            request=requests.request(message, message.request_id, self._config),
            session_id=requests.session(message.session_id, self._config),
            cell_id=cell_id,
            settings=requests.kernel_settings(message.kernel, caller, self._config),
            new_source=requests.source(new.source, self._config.limits) if new else None,
            index=requests.index(new.index) if new and new.HasField("index") else None,
            timeout_s=timeout,
            stop_on_error=message.stop_on_error,
            coalesce=message.coalesce,
            offers=requests.offers(message, self._config.limits),
            call=CALL.get(),
            manner=requests.manner(message, self._config.limits),
        )


async def _events(
    room: Room, execution_id: ExecutionId, after_seq: int, session: SessionId
) -> AsyncIterator[pb.ExecutionEvent]:
    async with aclosing(room.runs.follow(execution_id, after_seq, session)) as happening:
        async for item in happening:
            yield responses.event(item)
