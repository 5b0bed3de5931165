"""A session's document, beyond whole cells: edits that merge, order, metadata, and nbformat in and out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cellyard import _io_async, _requests
from cellyard._async.core import AsyncSessionCore
from cellyard._async.transport import Connection
from cellyard_proto.v1 import notebooks_pb2


class AsyncEditCalls(AsyncSessionCore):
    """The part of a session that edits and exchanges its document."""

    async def splice_source(
        self, cell_id: str, index: int, delete_count: int, text: str, *, if_version: str | None = None
    ) -> None:
        """Replaces `delete_count` characters of a cell's source from `index` on by `text`; merges with others' edits.

        Places count Unicode code points, as Python's str does. Raises CellNotFound, NotConnected, InvalidRequest for
        places that are not in the source, CellChanged where the source is not of `if_version`.
        """
        await self._splice(cell_id, _requests.index(index), delete_count, text, if_version)

    async def append_source(self, cell_id: str, text: str) -> None:
        """Adds text at the end of a cell's source. Raises CellNotFound, NotConnected."""
        await self._splice(cell_id, None, 0, text, None)

    async def move_cell(self, cell_id: str, after: str | None = None) -> None:
        """Puts a cell behind another one, or first. Raises CellNotFound, NotConnected."""
        request = notebooks_pb2.MoveCellRequest(
            cell_id=_requests.named("cell_id", cell_id),
            after_cell_id="" if after is None else _requests.named("after", after),
            request_id=_requests.request_id(),
        )
        self._need_connection()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.MoveCell, request)

    async def set_cell_type(self, cell_id: str, cell_type: str) -> None:
        """Makes a cell "code", "markdown" or "raw". Raises CellNotFound, InvalidRequest, NotConnected."""
        request = notebooks_pb2.SetCellTypeRequest(
            cell_id=_requests.named("cell_id", cell_id),
            cell_type=_requests.one_of("cell_type", cell_type, _requests.CELL_TYPES),
            request_id=_requests.request_id(),
        )
        self._need_connection()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.SetCellType, request)

    async def set_cell_metadata(self, cell_id: str, values: Mapping[str, Any], *, remove: Collection[str] = ()) -> None:
        """Sets keys of a cell's metadata (JSON data; `tags` is one of them) and removes others; the rest stays.

        Raises CellNotFound, InvalidRequest for what is no JSON, NotConnected.
        """
        request = notebooks_pb2.SetCellMetadataRequest(
            cell_id=_requests.named("cell_id", cell_id),
            metadata_json=_requests.json_text("a cell's metadata", values),
            remove_keys=[_requests.text("remove", key) for key in remove],
            request_id=_requests.request_id(),
        )
        self._need_connection()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.SetCellMetadata, request)

    async def clear_outputs(self, cell_id: str | None = None) -> None:
        """Lets one cell, or all, show no outputs and no count; executions keep theirs.

        Raises CellNotFound, NotConnected.
        """
        request = notebooks_pb2.ClearOutputsRequest(
            cell_id="" if cell_id is None else _requests.named("cell_id", cell_id), request_id=_requests.request_id()
        )
        self._need_connection()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.ClearOutputs, request)

    async def export_notebook(self) -> str:
        """The notebook with its outputs as nbformat's JSON, as `nbformat.reads` takes it. Connects where needed."""
        await self._connected()
        request = notebooks_pb2.ExportRequest(notebook_id=self._notebook_id)
        content = bytearray()

        def ask(connection: Connection) -> _io_async.Call[notebooks_pb2.ExportChunk]:
            content.clear()  # after a break it begins anew
            return connection.stubs.notebooks.Export(request, metadata=connection.metadata)

        async for part in self._transport.stream(ask, lambda part: part.last):
            content.extend(part.content)
        return content.decode()

    async def import_notebook(self, notebook: str | bytes) -> int:
        """Puts nbformat's JSON (4.0 to 4.5) into this notebook, which must have no cells; returns their number.

        Outputs and counts come along, as executions that ended with the reason "imported". Connects where needed.
        Raises InvalidRequest for what is no notebook, and for a notebook that has cells.
        """
        content = notebook if isinstance(notebook, bytes) else _requests.text("notebook", notebook).encode()
        await self._connected()
        request = notebooks_pb2.ImportRequest(
            notebook_id=self._notebook_id, request_id=_requests.request_id(), content=content
        )
        return (await self._transport.call(lambda s: s.notebooks.Import, request)).cell_count

    async def _splice(
        self, cell_id: str, index: int | None, delete_count: int, text: str, if_version: str | None
    ) -> None:
        request = _requests.build(
            notebooks_pb2.SpliceSourceRequest,
            cell_id=_requests.named("cell_id", cell_id),
            index=index,
            delete_count=_requests.index(delete_count, "delete_count"),
            text=_requests.text("text", text),
            if_version="" if if_version is None else _requests.named("if_version", if_version),
            request_id=_requests.request_id(),
        )
        self._need_connection()
        request.notebook_id = self._notebook_id
        await self._transport.call(lambda s: s.notebooks.SpliceSource, request)
