"""Kernels: started, interrupted, restarted and shut down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cellyard_controller.api import requests, responses
from cellyard_controller.api.access import Access, Caller, stream, unary
from cellyard_controller.config import Config
from cellyard_controller.environments.beside import read_names, read_requirements
from cellyard_controller.environments.reading import Bounds
from cellyard_controller.notebooks.installing import Installing
from cellyard_controller.notebooks.kernel import KernelView
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.link_messages import Question
from cellyard_proto.v1 import kernels_pb2 as pb
from cellyard_proto.v1 import kernels_pb2_grpc

_MAX_HISTORY = 1_000


class Kernels(kernels_pb2_grpc.KernelsServicer):
    """The Kernels service."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self.access, self._rooms, self._config = access, rooms, config

    @stream
    async def Start(self, message: pb.StartKernel, caller: Caller) -> AsyncIterator[pb.KernelEvent]:  # noqa: N802
        """Starts a kernel where none runs, with progress."""
        settings = requests.kernel_settings(message.settings, caller, self._config)
        session = requests.session(message.session_id, self._config)
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(requests.notebook(message.notebook_id, caller, self._config)) as room:
            if not (await room.driving.view()).sandbox_id:  # asking for one that runs begins nothing
                self.access.begins()
            async for item in room.driving.start(request, session, settings):
                if isinstance(item, KernelView):
                    yield pb.KernelEvent(kernel=responses.kernel(item))
                else:
                    yield pb.KernelEvent(progress=pb.Progress(stage=item[0], message=item[1]))

    @unary
    async def Get(self, message: pb.GetKernel, caller: Caller) -> pb.Kernel:  # noqa: N802
        """The kernel as it stands."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.kernel(await room.driving.view())

    @unary
    async def Shutdown(self, message: pb.ShutdownKernel, caller: Caller) -> pb.Kernel:  # noqa: N802
        """Ends the kernel."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.kernel(await room.driving.shut_down(request=request))

    @unary
    async def Interrupt(self, message: pb.InterruptKernel, caller: Caller) -> pb.Kernel:  # noqa: N802
        """Interrupts the running cell."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        session = requests.session(message.session_id, self._config)
        restart = (
            requests.seconds(message.restart_after_s, "restart_after") if message.HasField("restart_after_s") else None
        )
        async with self._rooms.use(ref, create=False) as room:
            return responses.kernel(await room.driving.interrupt(request, session, restart))

    @unary
    async def Restart(self, message: pb.RestartKernel, caller: Caller) -> pb.Kernel:  # noqa: N802
        """A fresh kernel in the same sandbox."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        session = requests.session(message.session_id, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return responses.kernel(await room.driving.restart(request, session))

    @unary
    async def Extend(self, message: pb.ExtendKernel, caller: Caller) -> pb.Kernel:  # noqa: N802
        """Lets the kernel live on."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        ttl = requests.seconds(message.ttl_s, "ttl") if message.ttl_s else None
        async with self._rooms.use(ref, create=False) as room:
            return responses.kernel(await room.driving.extend(request, ttl))

    @unary
    async def Complete(self, message: pb.CompleteRequest, caller: Caller) -> pb.CompleteResponse:  # noqa: N802
        """What could stand at a place in code."""
        return responses.completion(await self._place(message, "complete", caller))

    @unary
    async def Inspect(self, message: pb.InspectRequest, caller: Caller) -> pb.InspectResponse:  # noqa: N802
        """What is known of the name at a place in code."""
        return responses.inspection(await self._place(message, "inspect", caller, message.detail_level))

    @unary
    async def History(self, message: pb.HistoryRequest, caller: Caller) -> pb.HistoryResponse:  # noqa: N802
        """What ran in this kernel."""
        question = requests.history(message, _MAX_HISTORY)
        return responses.history(await self._question(message.notebook_id, question, caller))

    @unary
    async def IsComplete(self, message: pb.IsCompleteRequest, caller: Caller) -> pb.IsCompleteResponse:  # noqa: N802
        """Whether code is ready to run."""
        question = requests.question("is_complete", message.code, None, self._config.limits)
        return responses.completeness(await self._question(message.notebook_id, question, caller))

    @unary
    async def Info(self, message: pb.KernelInfoRequest, caller: Caller) -> pb.KernelInfoResponse:  # noqa: N802
        """What the kernel says of itself."""
        return responses.kernel_info(await self._question(message.notebook_id, Question("info"), caller))

    @unary
    async def SendComm(self, message: pb.SendCommRequest, caller: Caller) -> pb.SendCommResponse:  # noqa: N802
        """Gives the kernel a comm's message."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        said = requests.comm(message.comm, self._config.limits)
        async with self._rooms.use(ref, create=False) as room:
            await room.driving.send_comm(request, said)
        return pb.SendCommResponse()

    @stream
    async def Install(  # noqa: N802
        self, message: pb.InstallRequest, caller: Caller
    ) -> AsyncIterator[pb.InstallEvent]:
        """Packages for the running kernel, with progress."""
        wanted = read_requirements(message.requirements, Bounds.of(self._config.environments))
        request = requests.request(message, message.request_id, self._config)
        told: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        async with self._packages(message.notebook_id, caller) as installing:
            report = lambda stage, said: told.put_nowait((stage, said))  # noqa: E731
            work = asyncio.create_task(installing.install(request, wanted, report))
            work.add_done_callback(lambda _: told.put_nowait(None))
            try:
                while (progress := await told.get()) is not None:
                    yield pb.InstallEvent(progress=pb.Progress(stage=progress[0], message=progress[1]))
            finally:
                work.cancel()
                await asyncio.wait({work})
            yield pb.InstallEvent(installed=responses.installed(work.result()))

    @unary
    async def Uninstall(self, message: pb.UninstallRequest, caller: Caller) -> pb.UninstallResponse:  # noqa: N802
        """Packages that were installed go."""
        names = read_names(message.names, Bounds.of(self._config.environments))
        request = requests.request(message, message.request_id, self._config)
        async with self._packages(message.notebook_id, caller) as installing:
            done = await installing.uninstall(request, names)
        return pb.UninstallResponse(removed=responses.packages(done.removed), not_found=done.not_found)

    @unary
    async def ListInstalled(  # noqa: N802
        self, message: pb.ListInstalledRequest, caller: Caller
    ) -> pb.ListInstalledResponse:
        """What was installed."""
        async with self._packages(message.notebook_id, caller) as installing:
            return pb.ListInstalledResponse(packages=responses.packages(await installing.listed()))

    @asynccontextmanager
    async def _packages(self, notebook_id: str, caller: Caller) -> AsyncIterator[Installing]:
        ref = requests.notebook(notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            yield room.installing

    async def _place(
        self, message: pb.CompleteRequest | pb.InspectRequest, kind: str, caller: Caller, detail_level: int = 0
    ) -> dict[str, Any]:
        cursor = message.cursor if message.HasField("cursor") else None
        question = requests.question(kind, message.code, cursor, self._config.limits, detail_level=detail_level)
        return await self._question(message.notebook_id, question, caller)

    async def _question(self, notebook_id: str, question: Question, caller: Caller) -> dict[str, Any]:
        ref = requests.notebook(notebook_id, caller, self._config)
        async with self._rooms.use(ref, create=False) as room:
            return await room.driving.question(question)
