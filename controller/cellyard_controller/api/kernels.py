"""Kernels: started, interrupted, restarted and shut down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from cellyard_controller.api import requests, responses
from cellyard_controller.api.access import Access, Caller, stream, unary
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
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
        if message.limit < 0:
            raise InvalidRequest(f"a limit is not negative: {message.limit}")
        question = Question("history", limit=min(message.limit or _MAX_HISTORY, _MAX_HISTORY))
        return responses.history(await self._question(message.notebook_id, question, caller))

    @unary
    async def SendComm(self, message: pb.SendCommRequest, caller: Caller) -> pb.SendCommResponse:  # noqa: N802
        """Gives the kernel a comm's message."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        request = requests.request(message, message.request_id, self._config)
        said = requests.comm(message.comm, self._config.limits)
        async with self._rooms.use(ref, create=False) as room:
            await room.driving.send_comm(request, said)
        return pb.SendCommResponse()

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
