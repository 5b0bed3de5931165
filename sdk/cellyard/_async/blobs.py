"""Large parts of outputs: fetched, so that what users get is whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import TypeVar

from cellyard import _io_async, _large
from cellyard._async.transport import AsyncTransport, Connection, Request, Stubs
from cellyard.errors import ExecutionNotFound, NotebookNotFound
from cellyard_proto.v1 import executions_pb2, outputs_pb2

Shown = TypeVar("Shown", bound=_large.Message)


async def call(
    transport: AsyncTransport,
    notebook_id: str,
    method: Callable[[Stubs], _io_async.Unary[Request, Shown]],
    request: Request,
) -> Shown:
    """Makes a call whose answer has outputs, and puts their large parts in.

    Where one is gone meanwhile, because the cell ran again, the call is made once more; what is gone then too says so.
    """
    answer = await transport.call(method, request)
    if not await fill(transport, notebook_id, answer):
        answer = await transport.call(method, request)
        await fill(transport, notebook_id, answer)
    return answer


async def fill(transport: AsyncTransport, notebook_id: str, message: _large.Message) -> bool:
    """Puts the large parts in that a message refers to; False where some are gone, which the outputs then say."""
    whole = True
    known: dict[str, str | None] = {}
    for part in _large.large_parts(message):
        blob = part.blob
        if blob.digest not in known:
            known[blob.digest] = await _read(transport, notebook_id, blob)
        text = known[blob.digest]
        if text is None:
            whole = False
            part.drop()
        else:
            part.fill(text)
    return whole


async def _read(transport: AsyncTransport, notebook_id: str, blob: outputs_pb2.Blob) -> str | None:
    """A content; None where it is gone, or damaged. After a break it goes on where it was."""
    content = bytearray()

    def ask(connection: Connection) -> _io_async.Call[executions_pb2.BlobChunk]:
        request = executions_pb2.ReadBlobRequest(notebook_id=notebook_id, digest=blob.digest, offset=len(content))
        return connection.stubs.executions.ReadBlob(request, metadata=connection.metadata)

    try:
        async with aclosing(transport.stream(ask, lambda chunk: len(content) >= chunk.size)) as chunks:
            async for chunk in chunks:
                content.extend(chunk.content)
    except (ExecutionNotFound, NotebookNotFound):
        return None
    return _large.text_of(blob, content)
