"""Notebooks: documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext

from cellyard_controller.api import requests, responses
from cellyard_controller.api.access import Access, Caller, duplex, stream, unary
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks import exchange
from cellyard_controller.notebooks.document import NOTEBOOK_METADATA, Splice
from cellyard_controller.notebooks.editor import Editor
from cellyard_controller.notebooks.replication import Opened
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.store.requests import Request
from cellyard_proto.v1 import notebooks_pb2 as pb
from cellyard_proto.v1 import notebooks_pb2_grpc

_CHUNK = 1024 * 1024
"""Bytes of an export in one message."""
_LARGE = 256 * 1024
"""Bytes above which imports take turns: parsing and writing them is work for the processor."""
_LARGE_AT_A_TIME = 2

_Edit = (
    pb.MoveCellRequest
    | pb.SpliceSourceRequest
    | pb.SetCellMetadataRequest
    | pb.SetCellTypeRequest
    | pb.ClearOutputsRequest
)


class Notebooks(notebooks_pb2_grpc.NotebooksServicer):
    """The Notebooks service."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self.access, self._rooms, self._config = access, rooms, config
        self._large_imports = asyncio.Semaphore(_LARGE_AT_A_TIME)

    @unary
    async def CreateCell(self, message: pb.CreateCellRequest, caller: Caller) -> pb.Cell:  # noqa: N802
        """Adds a cell."""
        limits = self._config.limits
        cell_type = requests.cell_type(message.cell_type or "code")
        position = requests.index(message.index) if message.HasField("index") else None
        cell_id = requests.cell(message.cell_id, self._config)
        source = requests.source(message.source, limits)
        metadata = requests.metadata(message.metadata_json, limits)
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(requests.notebook(message.notebook_id, caller, self._config)) as room:
            created = await room.editor.create_cell(request, cell_id, cell_type, source, position, metadata)
            return responses.cell(created)

    @unary
    async def SetSource(self, message: pb.SetSourceRequest, caller: Caller) -> pb.Cell:  # noqa: N802
        """Writes a cell's whole source."""
        source = requests.source(message.source, self._config.limits)
        request = requests.request(message, message.request_id, self._config)
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            changed = await room.editor.set_source(request, CellId(message.cell_id), source, message.if_version)
            return responses.cell(changed)

    @unary
    async def GetCell(self, message: pb.GetCellRequest, caller: Caller) -> pb.Cell:  # noqa: N802
        """One cell."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.cell(await room.editor.cell(CellId(message.cell_id)))

    @unary
    async def ListCells(self, message: pb.ListCellsRequest, caller: Caller) -> pb.ListCellsResponse:  # noqa: N802
        """All cells."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return pb.ListCellsResponse(cells=[responses.cell(cell) for cell in await room.editor.cells()])

    @unary
    async def DeleteCell(self, message: pb.DeleteCellRequest, caller: Caller) -> pb.DeleteCellResponse:  # noqa: N802
        """Removes a cell."""
        request = requests.request(message, message.request_id, self._config)
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            await room.editor.delete_cell(request, CellId(message.cell_id))
        return pb.DeleteCellResponse()

    @unary
    async def MoveCell(self, message: pb.MoveCellRequest, caller: Caller) -> pb.MoveCellResponse:  # noqa: N802
        """Puts a cell elsewhere."""
        after = CellId(message.after_cell_id) if message.after_cell_id else None
        async with self._editing(message, caller) as (editor, request):
            await editor.move_cell(request, CellId(message.cell_id), after)
        return pb.MoveCellResponse()

    @unary
    async def SpliceSource(  # noqa: N802
        self, message: pb.SpliceSourceRequest, caller: Caller
    ) -> pb.SpliceSourceResponse:
        """Edits a part of a source."""
        splice = Splice(
            index=message.index if message.HasField("index") else None,
            delete_count=message.delete_count,
            text=requests.source(message.text, self._config.limits),
            max_bytes=self._config.limits.source,
        )
        async with self._editing(message, caller) as (editor, request):
            changed = await editor.splice_source(request, CellId(message.cell_id), splice, message.if_version)
        return pb.SpliceSourceResponse(version=changed.version, length=len(changed.source))

    @unary
    async def SetCellMetadata(  # noqa: N802
        self, message: pb.SetCellMetadataRequest, caller: Caller
    ) -> pb.SetCellMetadataResponse:
        """Sets and removes keys of a cell's metadata."""
        limits = self._config.limits
        values, remove = requests.metadata(message.metadata_json, limits), frozenset(message.remove_keys)
        async with self._editing(message, caller) as (editor, request):
            await editor.set_cell_metadata(request, CellId(message.cell_id), values, remove, limits.metadata)
        return pb.SetCellMetadataResponse()

    @unary
    async def SetCellType(self, message: pb.SetCellTypeRequest, caller: Caller) -> pb.SetCellTypeResponse:  # noqa: N802
        """Makes it a cell of another type."""
        cell_type = requests.cell_type(message.cell_type)
        async with self._editing(message, caller) as (editor, request):
            await editor.set_cell_type(request, CellId(message.cell_id), cell_type)
        return pb.SetCellTypeResponse()

    @unary
    async def ClearOutputs(  # noqa: N802
        self, message: pb.ClearOutputsRequest, caller: Caller
    ) -> pb.ClearOutputsResponse:
        """Hides what cells show."""
        cell_id = CellId(message.cell_id) if message.cell_id else None
        async with self._editing(message, caller) as (editor, request):
            await editor.clear_outputs(request, cell_id)
        return pb.ClearOutputsResponse()

    @unary
    async def SetMetadata(self, message: pb.SetMetadataRequest, caller: Caller) -> pb.SetMetadataResponse:  # noqa: N802
        """Sets a value of the notebook's metadata."""
        limits = self._config.limits
        key = requests.identifier(message.key, "the metadata key", limits)
        requests.metadata_text(message.value, limits)
        if key == NOTEBOOK_METADATA:
            requests.metadata(message.value, limits)  # nbformat's metadata is a JSON object
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(requests.notebook(message.notebook_id, caller, self._config)) as room:
            await room.editor.set_metadata(request, key, message.value)
        return pb.SetMetadataResponse()

    @unary
    async def GetMetadata(self, message: pb.GetMetadataRequest, caller: Caller) -> pb.GetMetadataResponse:  # noqa: N802
        """Reads a value of the notebook's metadata."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return pb.GetMetadataResponse(value=await room.editor.metadata(message.key))

    @unary
    async def SetLabels(self, message: pb.SetLabelsRequest, caller: Caller) -> pb.SetLabelsResponse:  # noqa: N802
        """Sets and removes labels."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        given, gone = requests.labels(message.labels), frozenset(message.remove_keys)
        labels = await self._rooms.set_labels(ref, given, gone, request)
        return pb.SetLabelsResponse(labels=labels)

    @stream
    async def Export(self, message: pb.ExportRequest, caller: Caller) -> AsyncIterator[pb.ExportChunk]:  # noqa: N802
        """The notebook as nbformat's JSON."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            async for part in room.editor.export():
                content = part.encode()
                for start in range(0, len(content), _CHUNK):
                    yield pb.ExportChunk(content=content[start : start + _CHUNK])
        yield pb.ExportChunk(last=True)

    @unary
    async def Import(self, message: pb.ImportRequest, caller: Caller) -> pb.ImportResponse:  # noqa: N802
        """Puts a whole notebook in."""
        limits, size = self._config.limits, len(message.content)
        ref = requests.notebook(message.notebook_id, caller, self._config)
        if size > limits.notebook:
            raise InvalidRequest(f"the notebook has {size} bytes; at most {limits.notebook} can be imported")

        def read() -> tuple[Request, exchange.Draft]:
            request = requests.request(message, message.request_id, self._config)
            return request, exchange.draft(message.content, limits)

        async with self._large_imports if size > _LARGE else nullcontext():
            request, draft = await asyncio.to_thread(read)
            async with self._rooms.use(ref) as room:
                await room.editor.fill(request, draft)
        return pb.ImportResponse(cell_count=len(draft.cells))

    @stream
    async def Watch(self, message: pb.WatchNotebook, caller: Caller) -> AsyncIterator[pb.NotebookEvent]:  # noqa: N802
        """The notebook as it is, and then what happens to it."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room, aclosing(room.watching.watch()) as told:
            async for each in told:
                yield responses.notebook_event(ref, each)

    @duplex
    async def Sync(  # noqa: N802
        self, messages: AsyncIterator[pb.SyncFromClient], caller: Caller
    ) -> AsyncGenerator[pb.SyncToClient, None]:
        """The document for a live replica."""
        first = await anext(aiter(messages), pb.SyncFromClient())
        if first.WhichOneof("message") != "open":
            raise InvalidRequest("a replica's first message opens it and names the notebook")
        ref = requests.notebook(first.open.notebook_id, caller, self._config)
        actor_id = first.open.actor_id
        # Who was given an actor id has a notebook; were it gone meanwhile, an empty one would not fit its changes.
        async with (
            self._rooms.use(ref, create=not actor_id) as room,
            aclosing(room.replication.serve(actor_id, _sync_messages(messages))) as items,
        ):
            async for item in items:
                if isinstance(item, Opened):
                    yield pb.SyncToClient(opened=pb.SyncOpened(actor_id=item.actor_id))
                else:
                    yield pb.SyncToClient(sync=item)

    @unary
    async def List(self, message: pb.ListNotebooks, caller: Caller) -> pb.ListNotebooksResponse:  # noqa: N802
        """The tenant's notebooks."""
        limit = min(message.limit or 1000, 1000)
        if limit < 0:
            raise InvalidRequest(f"a limit is not negative: {limit}")
        labels = requests.labels(message.labels)
        found = await self._rooms.list(caller.tenant, limit, message.after_notebook_id, labels)
        return pb.ListNotebooksResponse(
            notebooks=[
                pb.NotebookInfo(
                    notebook_id=record.ref.notebook_id,
                    created_at=record.created_at,
                    changed_at=record.changed_at,
                    labels=record.labels,
                )
                for record in found
            ]
        )

    @unary
    async def Delete(self, message: pb.DeleteNotebook, caller: Caller) -> pb.DeleteNotebookResponse:  # noqa: N802
        """Removes a notebook."""
        request = requests.request(message, message.request_id, self._config)
        await self._rooms.delete(requests.notebook(message.notebook_id, caller, self._config), request)
        return pb.DeleteNotebookResponse()

    @asynccontextmanager
    async def _editing(self, message: _Edit, caller: Caller) -> AsyncIterator[tuple[Editor, Request]]:
        """The document of the notebook that is to be edited, and the request."""
        request = requests.request(message, message.request_id, self._config)
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            yield room.editor, request


async def _sync_messages(messages: AsyncIterator[pb.SyncFromClient]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("message") != "sync":
            raise InvalidRequest("a replica is opened once; after that its messages are those of the sync protocol")
        yield message.sync
