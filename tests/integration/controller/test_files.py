"""The Files and Processes services against bad requests, strangers and sandboxes that go; on fake sandboxes."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.integration.controller.conftest import Stubs, Yard

from cellyard_proto.v1 import files_pb2, files_pb2_grpc, kernels_pb2, processes_pb2, processes_pb2_grpc

MIB = 1024 * 1024
PART = 256 * 1024


class Beside:
    """The two services."""

    def __init__(self, stubs: Stubs) -> None:
        self.files: Any = files_pb2_grpc.FilesStub(stubs.channel)
        self.processes: Any = processes_pb2_grpc.ProcessesStub(stubs.channel)

    async def upload(self, path: str, *parts: bytes, size: int | None = None, notebook: str = "nb") -> int:
        size = sum(map(len, parts)) if size is None else size
        begin = files_pb2.UploadBegin(notebook_id=notebook, path=path, size=size)
        messages = [files_pb2.UploadPart(begin=begin), *(files_pb2.UploadPart(content=part) for part in parts)]
        last = files_pb2.UploadProgress()
        try:
            async for told in self.files.Upload(iter(messages)):
                last = told
        except grpc.aio.AioRpcError as failed:
            if failed.details() == "Internal error from Core":  # gRPC's, for what is sent behind a refusal
                return await self.upload(path, *parts, size=size, notebook=notebook)
            raise
        assert last.done
        return last.bytes

    async def download(self, path: str, notebook: str = "nb") -> bytes:
        parts = [part async for part in self.files.Download(files_pb2.DownloadFile(notebook_id=notebook, path=path))]
        assert parts[-1].last
        content = b"".join(part.content for part in parts)
        assert parts[0].size == len(content)
        return content

    async def exec(self, *messages: processes_pb2.ExecInput) -> None:
        async for _ in self.processes.Exec(iter(messages)):
            pass


async def refused(call: Any) -> tuple[str, str]:
    """Reason and message of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    trailers = dict(failed.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, status.message


@pytest.fixture
async def beside(stubs: Stubs) -> Beside:
    async for _ in stubs.kernels.Start(kernels_pb2.StartKernel(notebook_id="nb", request_id="r", session_id="s")):
        pass
    return Beside(stubs)


@pytest.mark.parametrize("size", [0, 1, PART, 5 * PART + 1])
async def test_files_go_in_and_out(beside: Beside, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    parts = [content[start : start + PART] for start in range(0, size, PART)]
    assert await beside.upload("a/b", *parts) == size
    assert await beside.download("./a//b") == content
    entries = [m async for m in beside.files.List(files_pb2.ListFiles(notebook_id="nb"))]
    assert [(entry.name, entry.size) for entry in entries[0].entries] == [("a/b", size)]
    await beside.files.Remove(files_pb2.RemoveFile(notebook_id="nb", path="a/b"))
    assert await refused(beside.download("a/b")) == ("INVALID_REQUEST", "'a/b' not found")


@pytest.mark.parametrize("path", ["", ".", "..", "../x", "/x", "a\0", "x" * 256, "y" * 10_240, "a/../b"])
async def test_bad_names_are_refused_by_the_controller(beside: Beside, path: str) -> None:
    assert (await refused(beside.upload(path, b"x")))[0] == "INVALID_REQUEST"
    assert (await refused(beside.download(path)))[0] == "INVALID_REQUEST"
    assert (await refused(beside.files.Remove(files_pb2.RemoveFile(notebook_id="nb", path=path))))[
        0
    ] == "INVALID_REQUEST"


async def test_uploads_are_as_long_as_they_say(beside: Beside) -> None:
    for parts, size in (((b"12",), 3), ((b"1234",), 3), ((b"",), 3), ((), 1), ((b"x",), -1), ((b"x",), 2**40)):
        reason, _ = await refused(beside.upload("a", *parts, size=size))
        assert reason == "INVALID_REQUEST"
    assert (await refused(beside.upload("a", b"x" * 2 * MIB)))[0] == "INVALID_REQUEST"
    for messages in ([], [files_pb2.UploadPart(content=b"x")], [files_pb2.UploadPart()]):
        reason, message = await refused(beside.files.Upload(iter(messages)).read())
        assert (reason, message) == ("INVALID_REQUEST", "an upload's first part says what comes")
    assert (await refused(beside.download("a")))[1] == "'a' not found"


async def test_commands_that_cannot_be_are_refused(beside: Beside) -> None:
    def start(*argv: str, timeout: float = 0.0) -> processes_pb2.ExecInput:
        return processes_pb2.ExecInput(start=processes_pb2.ExecStart(notebook_id="nb", argv=argv, timeout_s=timeout))

    for messages in (
        (),
        (processes_pb2.ExecInput(stdin=b"x"),),
        (start(),),
        (start(""),),
        (start("a\0"),),
        (start("a", "x" * 2**20),),
        (start(*["a"] * 10_001),),
        (start("a", timeout=-1),),
        (start("a", timeout=float("nan")),),
        (start("a"), start("a")),
    ):
        assert (await refused(beside.exec(*messages)))[0] == "INVALID_REQUEST"


async def test_without_a_kernel_there_is_nothing_to_reach(stubs: Stubs) -> None:
    beside = Beside(stubs)
    await stubs.run("shut", "1")
    await stubs.kernels.Shutdown(kernels_pb2.ShutdownKernel(notebook_id="shut", request_id="end"))
    start = processes_pb2.ExecInput(start=processes_pb2.ExecStart(notebook_id="shut", argv=["ls"]))
    for notebook in ("shut", "never"):
        start.start.notebook_id = notebook
        for call in (
            beside.upload("a", b"x", notebook=notebook),
            beside.download("a", notebook),
            beside.files.List(files_pb2.ListFiles(notebook_id=notebook)).read(),
            beside.files.Remove(files_pb2.RemoveFile(notebook_id=notebook, path="a")),
            beside.exec(start),
        ):
            assert (await refused(call))[0] == "NO_KERNEL"


async def test_a_sandbox_that_ends_during_an_upload_says_so(beside: Beside, yard: Yard, stubs: Stubs) -> None:
    begin = files_pb2.UploadBegin(notebook_id="nb", path="a", size=3 * MIB)
    upload = beside.files.Upload()
    await upload.write(files_pb2.UploadPart(begin=begin))
    await upload.write(files_pb2.UploadPart(content=b"x" * MIB))
    assert (await upload.read()).bytes == MIB
    room = yard.controller.rooms._seats[next(iter(yard.controller.rooms._seats))].room
    assert room._kernel.visits == 1
    await stubs.kernels.Shutdown(kernels_pb2.ShutdownKernel(notebook_id="nb", request_id="end"))
    await upload.write(files_pb2.UploadPart(content=b"x" * MIB))
    reason, message = await refused(upload.read())
    assert reason == "KERNEL_DIED"
    assert "the kernel was shut down" in message
    assert room._kernel.visits == 0
