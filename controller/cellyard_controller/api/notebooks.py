"""Notebooks: documents."""

from __future__ import annotations

from cellyard_controller.api import requests, responses
from cellyard_controller.api.access import Access, Caller, unary
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks.document import CELL_TYPES
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_proto.v1 import notebooks_pb2 as pb
from cellyard_proto.v1 import notebooks_pb2_grpc


class Notebooks(notebooks_pb2_grpc.NotebooksServicer):
    """The Notebooks service."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self.access, self._rooms, self._config = access, rooms, config

    @unary
    async def CreateCell(self, message: pb.CreateCellRequest, caller: Caller) -> pb.Cell:  # noqa: N802
        """Adds a cell."""
        limits = self._config.limits
        cell_type = message.cell_type or "code"
        if cell_type not in CELL_TYPES:
            raise InvalidRequest(f"unsupported cell type {cell_type!r}: one of {', '.join(CELL_TYPES)}")
        position = requests.index(message.index) if message.HasField("index") else None
        cell_id = requests.cell(message.cell_id, self._config)
        source = requests.source(message.source, limits)
        metadata = requests.metadata(message.metadata_json, limits)
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(requests.notebook(message.notebook_id, caller, self._config)) as room:
            created = await room.create_cell(request, cell_id, cell_type, source, position, metadata)
            return responses.cell(created)

    @unary
    async def SetSource(self, message: pb.SetSourceRequest, caller: Caller) -> pb.Cell:  # noqa: N802
        """Writes a cell's whole source."""
        source = requests.source(message.source, self._config.limits)
        request = requests.request(message, message.request_id, self._config)
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            changed = await room.set_source(request, CellId(message.cell_id), source, message.if_version)
            return responses.cell(changed)

    @unary
    async def GetCell(self, message: pb.GetCellRequest, caller: Caller) -> pb.Cell:  # noqa: N802
        """One cell."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.cell(await room.cell(CellId(message.cell_id)))

    @unary
    async def ListCells(self, message: pb.ListCellsRequest, caller: Caller) -> pb.ListCellsResponse:  # noqa: N802
        """All cells."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return pb.ListCellsResponse(cells=[responses.cell(cell) for cell in await room.cells()])

    @unary
    async def DeleteCell(self, message: pb.DeleteCellRequest, caller: Caller) -> pb.DeleteCellResponse:  # noqa: N802
        """Removes a cell."""
        request = requests.request(message, message.request_id, self._config)
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            await room.delete_cell(request, CellId(message.cell_id))
        return pb.DeleteCellResponse()

    @unary
    async def SetMetadata(self, message: pb.SetMetadataRequest, caller: Caller) -> pb.SetMetadataResponse:  # noqa: N802
        """Sets a value of the notebook's metadata."""
        limits = self._config.limits
        key = requests.identifier(message.key, "the metadata key", limits)
        if len(message.value.encode()) > limits.metadata:
            raise InvalidRequest(f"the metadata value is larger than {limits.metadata} bytes")
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(requests.notebook(message.notebook_id, caller, self._config)) as room:
            await room.set_metadata(request, key, message.value)
        return pb.SetMetadataResponse()

    @unary
    async def GetMetadata(self, message: pb.GetMetadataRequest, caller: Caller) -> pb.GetMetadataResponse:  # noqa: N802
        """Reads a value of the notebook's metadata."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return pb.GetMetadataResponse(value=await room.metadata(message.key))

    @unary
    async def List(self, message: pb.ListNotebooks, caller: Caller) -> pb.ListNotebooksResponse:  # noqa: N802
        """The tenant's notebooks."""
        limit = min(message.limit or 1000, 1000)
        if limit < 0:
            raise InvalidRequest(f"a limit is not negative: {limit}")
        found = await self._rooms.list(caller.tenant, limit, message.after_notebook_id)
        return pb.ListNotebooksResponse(
            notebooks=[
                pb.NotebookInfo(
                    notebook_id=record.ref.notebook_id,
                    created_at=record.created_at,
                    changed_at=record.changed_at,
                )
                for record in found
            ]
        )

    @unary
    async def Delete(self, message: pb.DeleteNotebook, caller: Caller) -> pb.DeleteNotebookResponse:  # noqa: N802
        """Removes a notebook."""
        await self._rooms.delete(requests.notebook(message.notebook_id, caller, self._config))
        return pb.DeleteNotebookResponse()
