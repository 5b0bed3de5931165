"""What of a controller speaks HTTP, put together."""

from __future__ import annotations

import asyncio

import structlog

from cellyard_controller.config import Config
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.store import Store
from cellyard_controller.web.metrics import Sources, registry
from cellyard_controller.web.server import HttpServer
from cellyard_controller.web.standing import Standing

log = structlog.get_logger()


class HttpSide:
    """`bind` before the data is opened, `start` once there is something to tell, `not_ready` when it ends, `stop`."""

    def __init__(self, config: Config) -> None:
        """Raises CannotListen where the configuration cannot be served."""
        self._config = config
        self._server = HttpServer(config)
        self._standing: Standing | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it is served, as a URL."""
        return self._server.address

    def bind(self) -> None:
        """Takes the address. Raises CannotListen."""
        self._server.bind()

    async def start(self, supervisor: Supervisor, rooms: Rooms, store: Store) -> None:
        """Answers from now on."""
        self._standing = Standing(supervisor.catalogue, self._config, store)
        self._asking = asyncio.create_task(self._standing.run())
        made = registry(Sources(supervisor, rooms, store, self._standing))
        await self._server.start(made, self._why_not_ready)
        log.info("serving HTTP", address=self.address)

    def not_ready(self) -> None:
        """From now on it says that the controller is about to end."""
        self._standing = None
        if self._asking is not None:
            self._asking.cancel()

    async def stop(self) -> None:
        """Ends what is open."""
        self.not_ready()
        if self._asking is not None:
            await asyncio.wait([self._asking])
        await self._server.stop()

    def _why_not_ready(self) -> str:
        if self._standing is None:
            return "the controller is stopping"
        runtime = self._config.runtime[0]
        return "" if self._standing.ready.get(runtime) else f"the runtime {runtime} is not ready"
