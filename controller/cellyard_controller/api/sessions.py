"""Sessions: versions, and who is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from cellyard_controller import __version__
from cellyard_controller.api import requests
from cellyard_controller.api.access import Access, Caller, stream, unary
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest, NotebookNotFound
from cellyard_controller.notebooks.room import Room
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.tenants.tokens import Scope
from cellyard_proto import PROTOCOL
from cellyard_proto.v1 import sessions_pb2 as pb
from cellyard_proto.v1 import sessions_pb2_grpc


class Sessions(sessions_pb2_grpc.SessionsServicer):
    """The Sessions service."""

    def __init__(
        self,
        access: Access,
        rooms: Rooms,
        supervisor: Supervisor,
        config: Config,
        controller_id: str,
        node: str = "",
    ) -> None:
        """`node`: this controller's, where several share a store."""
        self.access, self._rooms, self._supervisor = access, rooms, supervisor
        self._config, self._controller_id, self._node = config, controller_id, node

    @unary
    async def Hello(self, message: pb.HelloRequest, caller: Caller) -> pb.HelloResponse:  # noqa: N802
        """Versions, and who the caller is."""
        if message.protocol != PROTOCOL:
            raise InvalidRequest(
                f"the client speaks protocol {message.protocol} and this controller ({__version__}) {PROTOCOL}: "
                "install the same version of cellyard on both sides"
            )
        runtimes = [name for name in self._config.runtime if name != "process" or caller.operator]
        ready, reason = await self._supervisor.catalogue.ready(runtimes)
        return pb.HelloResponse(
            server_version=__version__,
            protocol=PROTOCOL,
            tenant=caller.tenant,
            controller_id=self._controller_id,
            ready=ready,
            not_ready_reason=reason,
            runtimes=runtimes,
            node=self._node,
        )

    @stream
    async def Attach(self, message: pb.AttachSession, caller: Caller) -> AsyncIterator[pb.AttachedSession]:  # noqa: N802
        """Holds the session's presence for as long as the stream is open."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        session = requests.session(
            requests.identifier(message.session_id, "the session id", self._config.limits), self._config
        )
        works = caller.may(Scope.RUN)  # who may only look makes no notebook, and has used no kernel
        async with self._rooms.use(ref, create=works) as room:
            await room.driving.attach_session(session, used_kernel=message.used_kernel and works)
            try:
                yield pb.AttachedSession()
                await self._until_over(room)
            finally:
                room.driving.detach_session(session)

    async def _until_over(self, room: Room) -> None:
        """Until the controller stops, or the client goes. Raises why the notebook is this controller's no more."""
        stopping = asyncio.ensure_future(self.access.stopping.wait())
        ends: set[asyncio.Future[Any]] = {stopping, room.moved}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if room.moved.done():
            raise room.moved.result()

    @unary
    async def Close(self, message: pb.CloseSession, caller: Caller) -> pb.CloseSessionResponse:  # noqa: N802
        """A clean exit."""
        ref = requests.notebook(message.notebook_id, caller, self._config)
        if not caller.may(Scope.RUN):
            return pb.CloseSessionResponse()  # its presence ends with its stream; it ends nothing else
        try:
            async with self._rooms.use(ref, create=False) as room:
                shut_down = await room.driving.close_session(requests.session(message.session_id, self._config))
        except NotebookNotFound:
            shut_down = False
        return pb.CloseSessionResponse(kernel_shut_down=shut_down)
