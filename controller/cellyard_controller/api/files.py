"""Files: in and out of a notebook's sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from cellyard_controller.api import requests
from cellyard_controller.api.access import Access, Caller, duplex, stream, unary
from cellyard_controller.api.visiting import visit
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.flows import Content, ListFolder, Opened, ReadFile, RemovePath, WriteFile, entries
from cellyard_proto.v1 import files_pb2 as pb
from cellyard_proto.v1 import files_pb2_grpc

_PART = 1024 * 1024
"""Bytes of one part of an upload, at most; and between two tellings of how far it has come."""
_KINDS = {"file": pb.FILE_KIND_FILE, "folder": pb.FILE_KIND_FOLDER, "link": pb.FILE_KIND_LINK}


class Files(files_pb2_grpc.FilesServicer):
    """The Files service."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self.access, self._rooms, self._config = access, rooms, config

    @duplex
    async def Upload(  # noqa: N802
        self, messages: AsyncIterator[pb.UploadPart], caller: Caller
    ) -> AsyncGenerator[pb.UploadProgress, None]:
        """A file in."""
        first = await anext(aiter(messages), pb.UploadPart())
        if first.WhichOneof("part") != "begin":
            raise InvalidRequest("an upload's first part says what comes")
        begin, limit = first.begin, self._config.limits.file
        ref = requests.notebook(begin.notebook_id, caller, self._config)
        path = requests.path(begin.path)
        if not 0 <= begin.size <= limit:
            raise InvalidRequest(f"{path[:200]!r} has {begin.size} bytes; at most {limit} can be uploaded", path=path)
        async with visit(self._rooms, ref, WriteFile(path, begin.size)) as flow:
            taken = told = 0
            while taken < begin.size:
                part = await anext(aiter(messages), None)
                if part is None:
                    raise InvalidRequest(f"the upload of {path[:200]!r} ended after {taken} of {begin.size} bytes")
                content = part.content
                if part.WhichOneof("part") != "content" or not 0 < len(content) <= min(_PART, begin.size - taken):
                    raise InvalidRequest(
                        f"a part of an upload has 1 to {_PART} bytes, and all together as many as announced"
                    )
                await flow.send(content)
                taken += len(content)
                if taken - told >= _PART:
                    told = taken
                    yield pb.UploadProgress(bytes=taken)
            await flow.done()
        yield pb.UploadProgress(bytes=taken, done=True)

    @stream
    async def Download(self, message: pb.DownloadFile, caller: Caller) -> AsyncIterator[pb.FilePart]:  # noqa: N802
        """A file out."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        path = requests.path(message.path)
        async with visit(self._rooms, ref, ReadFile(path, self._config.limits.file)) as flow:
            while isinstance(said := await flow.next(), Opened | Content):
                if isinstance(said, Opened):
                    yield pb.FilePart(size=said.size)
                else:
                    yield pb.FilePart(content=said.content)
        yield pb.FilePart(last=True)

    @stream
    async def List(self, message: pb.ListFiles, caller: Caller) -> AsyncIterator[pb.FileEntries]:  # noqa: N802
        """What lies in a folder."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        path = requests.path(message.path, home_too=True)
        async with visit(self._rooms, ref, ListFolder(path)) as flow:
            while isinstance(said := await flow.next(), Opened | Content):
                if isinstance(said, Content):
                    yield pb.FileEntries(
                        entries=[
                            pb.FileEntry(
                                name=entry.name,
                                kind=_KINDS.get(entry.kind, pb.FILE_KIND_OTHER),
                                size=entry.size,
                                modified_at=entry.modified_at,
                            )
                            for entry in entries(said.content)
                        ]
                    )
        yield pb.FileEntries(last=True)

    @unary
    async def Remove(self, message: pb.RemoveFile, caller: Caller) -> pb.RemoveFileResponse:  # noqa: N802
        """A file goes."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with visit(self._rooms, ref, RemovePath(requests.path(message.path))) as flow:
            await flow.done()
        return pb.RemoveFileResponse()
