"""What of a controller speaks HTTP, put together."""

from __future__ import annotations

import asyncio

import structlog

from cellyard_controller.api.access import Access
from cellyard_controller.cluster.cluster import Cluster
from cellyard_controller.config import Config
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.store import Store
from cellyard_controller.web import ADDRESS_FILE
from cellyard_controller.web.console.overview import Overview
from cellyard_controller.web.console.routes import PATH, Console
from cellyard_controller.web.console.visitors import Visitors
from cellyard_controller.web.metrics import Sources, registry
from cellyard_controller.web.server import HttpServer
from cellyard_controller.web.standing import Standing

log = structlog.get_logger()

_STOPPING = "the controller is stopping"


class HttpSide:
    """`bind` before the data is opened, `start` once there is something to tell; `stopping` when it ends, `stop`."""

    def __init__(self, config: Config) -> None:
        """Raises CannotListen where the configuration cannot be served."""
        self._config = config
        self._server = HttpServer(config)
        self._address_file = config.data / ADDRESS_FILE
        self._standing: Standing | None = None
        self._asking: asyncio.Task[None] | None = None
        self._over = "the controller is starting"
        self._visitors: Visitors | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it is served, as a URL."""
        return self._server.address

    def bind(self) -> None:
        """Takes the address. Raises CannotListen."""
        self._server.bind()

    async def start(
        self, supervisor: Supervisor, rooms: Rooms, store: Store, access: Access, cluster: Cluster | None
    ) -> None:
        """Answers from now on."""
        self._standing = Standing(supervisor.catalogue, self._config, store)
        self._asking = asyncio.create_task(self._standing.run())
        tenants = self._config.http.tenants
        made = registry(Sources(supervisor, rooms, store, self._standing, access.calls, tenants, cluster))
        self._visitors = Visitors(access, self._server.token)
        self._looking = asyncio.create_task(self._visitors.run())
        overview = Overview(supervisor, rooms, store, lambda: self._standing, access.quotas, self._config)
        console = Console(access, rooms, self._config, self._visitors, overview, secure=self._server.secure)
        await self._server.start(made, self._why_not_ready, console.add_to, console.streaming)
        self._address_file.write_text(f"{self.address}{PATH}\n")
        log.info("serving HTTP", address=self.address, console=self.address + PATH)

    def not_ready(self, why: str) -> None:
        """From now on it says that the controller is about to end."""
        self._over, self._standing = why, None
        if self._asking is not None:
            self._asking.cancel()

    def stopping(self) -> None:
        """Pages that are open hear that it ends."""
        self.not_ready(_STOPPING)
        if self._visitors is not None:
            self._visitors.end_streams(_STOPPING)

    async def stop(self) -> None:
        """Ends what is open."""
        self.not_ready(_STOPPING)
        for task in filter(None, (self._asking, self._looking)):
            task.cancel()
            await asyncio.wait([task])
        await self._server.stop()
        self._address_file.unlink(missing_ok=True)

    def _why_not_ready(self) -> str:
        if self._standing is None:
            return self._over
        return self._standing.why_not_ready()
