"""A session's files: in and out of the home of its sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import overload

from cellyard import _io_async, _requests, _transfers
from cellyard._async.kernel import AsyncKernelCalls
from cellyard._async.transport import Connection
from cellyard.errors import CellyardError
from cellyard.files import FileInfo, file_info
from cellyard_proto.v1 import files_pb2


class AsyncFileCalls(AsyncKernelCalls):
    """The part of a session that is about files.

    Paths are relative to the kernel's home, which is its working directory. They never climb, and no link is
    followed. Files live as long as the sandbox: a kernel that was shut down has taken them along.
    """

    async def upload(self, local_or_bytes: _transfers.Content, path: str) -> None:
        """Writes a file into the home: bytes, or the file of this path here (a str is a path).

        Connects and starts a kernel where needed. The file appears whole or not at all, and replaces an older one;
        missing folders are made.

        Raises InvalidRequest for a path that climbs, leads over a link or names something else than a file, and for
        more than 100 MiB (the controller's `limits.file`); QuotaExceeded where the home is full; OSError where the
        file here cannot be read; and what `start_kernel` raises.
        """
        begin = files_pb2.UploadBegin(notebook_id=self._notebook_id, path=_requests.path(path))
        with _transfers.source(local_or_bytes) as source:
            begin.size = source.size
            await self._with_kernel()

            def ask(connection: Connection) -> _io_async.Call[files_pb2.UploadProgress]:
                return connection.stubs.files.Upload(_parts(begin, source), metadata=connection.metadata)

            try:
                async with aclosing(self._transport.stream(ask, lambda progress: progress.done)) as told:
                    async for _ in told:
                        pass
            except CellyardError:
                if source.failure is not None:
                    raise source.failure from None
                raise

    @overload
    async def download(self, path: str, local: None = None) -> bytes: ...

    @overload
    async def download(self, path: str, local: _transfers.Local) -> None: ...

    async def download(self, path: str, local: _transfers.Local | None = None) -> bytes | None:
        """Reads a file of the home: returns its bytes, or writes them to the file `local` here, whole or not at all.

        It is read as long as it was when it was opened, even where it grows meanwhile.

        Raises InvalidRequest where it is not found (`details["cause"]` is "not_found" then), is no plain file, is
        reached over a link, was cut while it was read, or has more than 100 MiB; NoKernel where no kernel runs;
        OSError where it cannot be written here.
        """
        request = files_pb2.DownloadFile(notebook_id=self._notebook_id, path=_requests.path(path))
        await self._connected()
        sink = _transfers.Sink(local)

        def ask(connection: Connection) -> _io_async.Call[files_pb2.FilePart]:
            sink.begin()
            return connection.stubs.files.Download(request, metadata=connection.metadata)

        try:
            async with aclosing(self._transport.stream(ask, lambda part: part.last)) as parts:
                async for part in parts:
                    sink.add(part.content)
            return sink.finish()
        finally:
            sink.close()

    async def list_files(self, path: str = ".") -> list[FileInfo]:
        """What lies in a folder of the home, by name; not what lies in its folders.

        Raises NoKernel where no kernel runs, InvalidRequest where the folder is not found, is none, or has more than
        100,000 entries.
        """
        request = files_pb2.ListFiles(notebook_id=self._notebook_id, path=_requests.path(path))
        await self._connected()
        found: list[FileInfo] = []

        def ask(connection: Connection) -> _io_async.Call[files_pb2.FileEntries]:
            found.clear()
            return connection.stubs.files.List(request, metadata=connection.metadata)

        async with aclosing(self._transport.stream(ask, lambda entries: entries.last)) as parts:
            async for part in parts:
                found.extend(file_info(entry, request.path) for entry in part.entries)
        return sorted(found, key=lambda file: file.name)

    async def remove_file(self, path: str) -> None:
        """Removes a file, a link or an empty folder of the home.

        Raises NoKernel where no kernel runs, InvalidRequest where it is not found, or is a folder that is not empty.
        """
        request = files_pb2.RemoveFile(notebook_id=self._notebook_id, path=_requests.path(path))
        await self._connected()
        await self._transport.call(lambda s: s.files.Remove, request)


async def _parts(begin: files_pb2.UploadBegin, source: _transfers.Source) -> AsyncGenerator[files_pb2.UploadPart, None]:
    """An upload, up to where the source can be read."""
    yield files_pb2.UploadPart(begin=begin)
    offset = 0
    while offset < source.size:
        part = await _io_async.in_thread(source.part, offset)
        if not part:
            return
        offset += len(part)
        yield files_pb2.UploadPart(content=part)
