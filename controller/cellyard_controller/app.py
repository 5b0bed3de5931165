"""Wiring: the only file that knows every part of the controller."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from cellyard_controller import __version__
from cellyard_controller.api.access import Access
from cellyard_controller.api.arrivals import Arrivals
from cellyard_controller.api.executions import Executions
from cellyard_controller.api.files import Files
from cellyard_controller.api.kernels import Kernels
from cellyard_controller.api.library import Artifacts, Workflows
from cellyard_controller.api.notebooks import Notebooks
from cellyard_controller.api.processes import Processes
from cellyard_controller.api.sandboxes import Sandboxes
from cellyard_controller.api.server import Address, CannotListen, Server, lock
from cellyard_controller.api.sessions import Sessions
from cellyard_controller.api.tenants import Tenants
from cellyard_controller.config import Config
from cellyard_controller.library import artifacts, serving, workflows
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.replicas.process import ReplicaWorker
from cellyard_controller.runtimes import Runtime
from cellyard_controller.sandboxes.link import MAX_SOCKET_PATH, SOCKET_NAME
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tenants.quotas import Quotas
from cellyard_controller.upkeep import keep_up
from cellyard_proto.v1 import (
    executions_pb2_grpc,
    files_pb2_grpc,
    kernels_pb2_grpc,
    library_pb2_grpc,
    notebooks_pb2_grpc,
    processes_pb2_grpc,
    sandboxes_pb2_grpc,
    sessions_pb2_grpc,
    tenants_pb2_grpc,
)

if TYPE_CHECKING:
    from cellyard_controller.web.side import HttpSide

log = structlog.get_logger()

Runtimes = Callable[[Config, str], Mapping[str, Runtime]]
"""Makes the runtimes of a controller from its configuration and id."""

_GRACE_S = 2.0
_ID_LENGTH = len("sb-000000000000")


class Controller:
    """A controller on one data folder. `start`, then `stop`; `run` does both around signals."""

    def __init__(self, config: Config, runtimes: Runtimes | None = None) -> None:
        """`runtimes` makes others than the configured ones."""
        self._config = config
        self._make_runtimes = runtimes or configured_runtimes
        self._tasks = asyncio.TaskGroup()
        self._data_lock = -1
        self.stopping = asyncio.Event()
        self.quotas = Quotas(config.quotas.quota)
        """What each tenant may have; in memory, refreshed whenever it is changed."""

    @property
    def http_address(self) -> str:
        """Where HTTP is served, as a URL."""
        assert self._http is not None
        return self._http.address

    @property
    def addresses(self) -> list[str]:
        """Where it listens, ports filled in."""
        return self._server.addresses

    async def start(self) -> None:
        """Opens the data folder, adopts what is there, and listens. Raises CannotListen, StoreFailed."""
        config = self._config
        addresses = [Address.parse(text) for text in config.listen]
        self._http = _http(config)
        self._open_folder(config.data)
        self._server = Server(config)
        self._server.bind([*addresses, Address(control_socket(config.data))])
        if self._http is not None:
            self._http.bind()
        self._store = Store.open(config.data / "cellyard.sqlite", used=Seal.made(config.data))
        await self._tasks.__aenter__()
        runtimes = self._make_runtimes(config, self._store.controller_id)
        self.supervisor = Supervisor(self._store, runtimes, config, self._tasks, self.quotas)
        self.replicas = ReplicaWorker(config)
        allowances = Allowances(self.quotas, self._store)
        self._audit = Audit(config.data, max_bytes=config.audit.max_bytes, files=config.audit.files)
        self._library = serving.Library(
            workflows.Workflows(self._store, allowances, config.library),
            artifacts.Artifacts(self._store, allowances, config.library),
            config.limits.answer,
        )
        self.rooms = Rooms(
            self._store,
            self.supervisor,
            Seal.of(config.data),
            config,
            self.replicas,
            self._library,
            allowances,
            self._audit,
        )
        self._access = Access(self._store, self.quotas, allowances, self._audit, Arrivals(config.limits))
        self._add_services()
        await self._access.load()
        await self.rooms.recover(await self.supervisor.reconcile())
        await self._server.start()
        if self._http is not None:
            await self._http.start(self.supervisor, self.rooms, self._store)
        self._upkeep = self._tasks.create_task(keep_up(self._store, config.upkeep_interval))
        self._keep_access = self._tasks.create_task(self._access.keep())
        self._keep_audit = self._tasks.create_task(self._audit.run())
        if config.linger:
            self._linger = self._tasks.create_task(self._stop_when_unused(config.linger))
        log.info("ready", version=__version__, listen=self.addresses, data=str(config.data))

    async def stop(self) -> None:
        """Ends what is open, commits, and lets go of the data folder."""
        log.info("stopping", sandboxes=self._config.on_stop)
        self._upkeep.cancel()
        self._keep_access.cancel()
        if self._config.linger:
            self._linger.cancel()
        self._access.stopping.set()
        if self._http is not None:
            self._http.not_ready()
        await self.supervisor.stop(keep=self._config.on_stop == "keep")
        await self.rooms.close()
        await self.replicas.close()
        await self._server.stop(_GRACE_S)
        if self._http is not None:
            await self._http.stop()
        await self._access.note_used()
        self._keep_audit.cancel()
        await self._audit.flush()
        await self._tasks.__aexit__(None, None, None)
        self._store.close()
        (self._config.data / "controller.pid").unlink(missing_ok=True)
        os.close(self._data_lock)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serves until SIGTERM or SIGINT; a second one ends the process at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self.stopping.is_set():
                os._exit(1)
            self.stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await self.start()
        on_ready()
        await self.stopping.wait()
        await self.stop()

    def _open_folder(self, data: Path) -> None:
        longest = len(os.fsencode(data / "link")) + 1 + _ID_LENGTH + 1 + len(SOCKET_NAME)
        if longest > MAX_SOCKET_PATH:
            raise CannotListen(
                f"the data folder {data} is too deep: the agents' sockets in it would have {longest} bytes, and "
                f"at most {MAX_SOCKET_PATH} are possible; choose another one with --data",
                usage=True,
            )
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            data.chmod(0o700)
        except OSError as failed:
            raise CannotListen(
                f"the data folder {data} cannot be used: {failed.strerror}; choose another one with --data"
            ) from None
        self._data_lock = lock(data / "lock", f"the data folder {data}")
        (data / "controller.pid").write_text(f"{os.getpid()}\n")

    def _add_services(self) -> None:
        server, access = self._server.grpc, self._access
        rooms, supervisor, config = self.rooms, self.supervisor, self._config
        notebooks_pb2_grpc.add_NotebooksServicer_to_server(Notebooks(access, rooms, config), server)
        kernels_pb2_grpc.add_KernelsServicer_to_server(Kernels(access, rooms, config), server)
        executions_pb2_grpc.add_ExecutionsServicer_to_server(Executions(access, rooms, config), server)
        files_pb2_grpc.add_FilesServicer_to_server(Files(access, rooms, config), server)
        processes_pb2_grpc.add_ProcessesServicer_to_server(Processes(access, rooms, config), server)
        library_pb2_grpc.add_WorkflowsServicer_to_server(Workflows(access, self._library, config), server)
        library_pb2_grpc.add_ArtifactsServicer_to_server(Artifacts(access, self._library, config), server)
        sandboxes_pb2_grpc.add_SandboxesServicer_to_server(Sandboxes(access, supervisor, config), server)
        sessions = Sessions(access, rooms, supervisor, config, self._store.controller_id)
        sessions_pb2_grpc.add_SessionsServicer_to_server(sessions, server)
        tenants_pb2_grpc.add_TenantsServicer_to_server(Tenants(access, self._store), server)

    async def _stop_when_unused(self, linger: float) -> None:
        while True:
            since = self.rooms.unused_since
            left = linger if since is None else since + linger - time.monotonic()
            if left <= 0:
                log.info("unused, ending", after_s=linger)
                self.stopping.set()
                return
            await asyncio.sleep(left)


def _http(config: Config) -> HttpSide | None:
    """The side that speaks HTTP, where one is configured. Raises CannotListen."""
    if not config.http.listen:
        return None
    from cellyard_controller.web.side import HttpSide  # a controller without HTTP starts without its libraries

    return HttpSide(config)


def control_socket(data: Path) -> Path:
    """Where the operator's commands reach the controller of a data folder, whatever else it listens on."""
    return data / "control.sock"


def configured_runtimes(config: Config, controller_id: str) -> dict[str, Runtime]:
    """The runtimes that the configuration names."""
    runtimes: dict[str, Runtime] = {}
    for name in config.runtime:
        if name == "docker":
            from cellyard_controller.runtimes.docker import DockerRuntime
            from cellyard_controller.runtimes.docker.images import expected_image

            runtimes[name] = DockerRuntime(
                controller_id, config.data / "probe", expected_image, engine_calls=config.sandboxes.engine_calls
            )
        else:
            from cellyard_controller.runtimes.process import ProcessRuntime

            runtimes[name] = ProcessRuntime(config.data / "homes")
    return runtimes
