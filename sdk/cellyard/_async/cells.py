"""A session's document: cells and metadata."""

from __future__ import annotations

from cellyard import _requests, _translate
from cellyard._async import blobs
from cellyard._async.core import AsyncSessionCore
from cellyard.results import Cell
from cellyard_proto.v1 import notebooks_pb2


class AsyncCellCalls(AsyncSessionCore):
    """The part of a session that is about its document."""

    async def create_cell(self, source: str = "", cell_type: str = "code", index: int | None = None) -> str:
        """Adds a cell and returns its id. Connects where needed; runs nothing.

        `cell_type` is "code", "markdown" or "raw". `index` counts from 0; past the end, or None, appends.
        Raises InvalidRequest for another type or a negative index.
        """
        request = _requests.build(
            notebooks_pb2.CreateCellRequest,
            cell_id=_requests.cell_id(),
            request_id=_requests.request_id(),
            source=_requests.text("source", source),
            cell_type=_requests.one_of("cell_type", cell_type, _requests.CELL_TYPES),
            index=_requests.index(index),
        )
        await self._connected()
        request.notebook_id = self._notebook_id
        return (await self._transport.call(lambda s: s.notebooks.CreateCell, request)).cell_id

    async def set_source(self, cell_id: str, source: str, *, if_version: str | None = None) -> None:
        """Writes a cell's whole source; the last writer wins, and every reader sees the same.

        With `if_version` (a `Cell.version`) it raises CellChanged when somebody changed the source since.
        Raises CellNotFound, NotConnected.
        """
        request = _requests.build(
            notebooks_pb2.SetSourceRequest,
            cell_id=_requests.named("cell_id", cell_id),
            request_id=_requests.request_id(),
            source=_requests.text("source", source),
            if_version="" if if_version is None else _requests.named("if_version", if_version),
        )
        self._need_connection()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.SetSource, request)

    async def get_cell(self, cell_id: str) -> Cell:
        """One cell with the outputs of its last execution. Raises CellNotFound, NotConnected."""
        _requests.named("cell_id", cell_id)
        self._need_connection()
        request = notebooks_pb2.GetCellRequest(notebook_id=self._notebook_id, cell_id=cell_id)
        return _translate.cell(
            await blobs.call(self._transport, self._notebook_id, lambda s: s.notebooks.GetCell, request)
        )

    async def get_cells(self) -> list[Cell]:
        """All cells in document order. Raises NotConnected."""
        self._need_connection()
        request = notebooks_pb2.ListCellsRequest(notebook_id=self._notebook_id)
        answer = await blobs.call(self._transport, self._notebook_id, lambda s: s.notebooks.ListCells, request)
        return [_translate.cell(found) for found in answer.cells]

    async def delete_cell(self, cell_id: str) -> None:
        """Removes a cell; an execution of it that waits is cancelled. Raises CellNotFound, NotConnected."""
        _requests.named("cell_id", cell_id)
        self._need_connection()
        request = notebooks_pb2.DeleteCellRequest(
            notebook_id=self._notebook_id, request_id=_requests.request_id(), cell_id=cell_id
        )
        await self._transport.call(lambda s: s.notebooks.DeleteCell, request)

    async def set_metadata(self, key: str, value: str) -> None:
        """Sets a value of the notebook's metadata, typically JSON. Connects where needed.

        Raises InvalidRequest for a value that is no str.
        """
        request = _requests.build(
            notebooks_pb2.SetMetadataRequest,
            request_id=_requests.request_id(),
            key=_requests.named("key", key),
            value=_requests.text("value", value),
        )
        await self._connected()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.SetMetadata, request)

    async def get_metadata(self, key: str) -> str | None:
        """A value of the notebook's metadata, None where it is not set. Connects where needed."""
        _requests.named("key", key)
        await self._connected()
        request = notebooks_pb2.GetMetadataRequest(notebook_id=self._notebook_id, key=key)
        answer = await self._transport.call(lambda s: s.notebooks.GetMetadata, request)
        return answer.value if answer.HasField("value") else None
