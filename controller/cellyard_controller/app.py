"""Wiring: the only file that knows every part of the controller."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection

from cellyard_controller import __version__, tracing
from cellyard_controller.api.access import Access
from cellyard_controller.api.arrivals import Arrivals
from cellyard_controller.api.executions import Executions
from cellyard_controller.api.files import Files
from cellyard_controller.api.kernels import Kernels
from cellyard_controller.api.library import Artifacts, Workflows
from cellyard_controller.api.nodes import Nodes
from cellyard_controller.api.notebooks import Notebooks
from cellyard_controller.api.processes import Processes
from cellyard_controller.api.reflection import Reflection
from cellyard_controller.api.sandboxes import Sandboxes
from cellyard_controller.api.server import Address, CannotListen, Server, lock
from cellyard_controller.api.sessions import Sessions
from cellyard_controller.api.tenants import Tenants
from cellyard_controller.cluster.cluster import Cluster
from cellyard_controller.cluster.joining import join
from cellyard_controller.cluster.standing import Terms
from cellyard_controller.config import Config
from cellyard_controller.ids import NotebookRef
from cellyard_controller.library import artifacts, serving, workflows
from cellyard_controller.notebooks.ownership import Alone, Ownership
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.replicas.process import ReplicaWorker
from cellyard_controller.runtimes import Runtime
from cellyard_controller.sandboxes.link import MAX_SOCKET_PATH, SOCKET_NAME
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store, places
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tenants.quotas import Quotas
from cellyard_controller.upkeep import keep_up
from cellyard_proto.v1 import (
    executions_pb2,
    executions_pb2_grpc,
    files_pb2,
    files_pb2_grpc,
    kernels_pb2,
    kernels_pb2_grpc,
    library_pb2,
    library_pb2_grpc,
    nodes_pb2,
    nodes_pb2_grpc,
    notebooks_pb2,
    notebooks_pb2_grpc,
    processes_pb2,
    processes_pb2_grpc,
    sandboxes_pb2,
    sandboxes_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
)

if TYPE_CHECKING:
    from cellyard_controller.web.side import HttpSide

log = structlog.get_logger()

Runtimes = Callable[[Config, str], Mapping[str, Runtime]]
"""Makes the runtimes of a controller from its configuration and id."""

SERVICES = tuple(
    service.full_name
    for file in (
        executions_pb2,
        files_pb2,
        kernels_pb2,
        library_pb2,
        nodes_pb2,
        notebooks_pb2,
        processes_pb2,
        sandboxes_pb2,
        sessions_pb2,
        tenants_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""The names of the services, as health checks and reflection have them."""

_GRACE_S = 2.0
_TOLD_WITHIN_S = 0.25
_LEFT_WITHIN_S = 8.0
"""Seconds; all of a node's sandboxes are being removed from the first moment on."""
_EXPORT_WITHIN_S = 5.0
_ID_LENGTH = len("sb-000000000000")


class Controller:
    """A controller on one data folder. `start`, then `stop`; `run` does both around signals."""

    def __init__(
        self, config: Config, runtimes: Runtimes | None = None, *, ownership: Ownership | None = None, node: str = ""
    ) -> None:
        """`runtimes` makes others than the configured ones. `ownership` says what is its own of a store that several
        share, and `node` which of them it is; without, all of it is."""
        self._ownership, self._node = ownership or Alone(), node
        self._cluster: Cluster | None = None
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
        if config.tracing.endpoint and not tracing.installed():
            raise CannotListen('tracing.endpoint needs OpenTelemetry: pip install "cellyard[tracing]"', usage=True)
        self._http = _http(config)
        self._open_folder(config.data)
        self._server = Server(config)
        self._server.bind([*addresses, Address(control_socket(config.data))])
        if self._http is not None:
            self._http.bind()
        place = _place(config)
        self._store = Store.open(place, used=Seal.made(config.data))
        seal = _seal(config)
        await self._tasks.__aenter__()
        if isinstance(place, places.Postgres):
            cluster = await asyncio.to_thread(join, config, place, self._store, self._server.addresses, seal)
            self._cluster, self._node = cluster, cluster.name
            self._keep_lease = self._tasks.create_task(cluster.keep())
            self._ownership = cluster.ownerships(self._new_notebook)
        runtimes = self._make_runtimes(config, self._store.controller_id)
        self._traces = tracing.configured(config.tracing, __version__, self._store.controller_id)
        self.supervisor = Supervisor(self._store, runtimes, config, self._tasks, self.quotas, self._cluster)
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
            seal,
            config,
            self.replicas,
            self._library,
            allowances,
            self._audit,
            self._traces,
            self._ownership,
        )
        arrivals = Arrivals(config.limits)
        self._access = Access(self._store, self.quotas, allowances, self._audit, arrivals, self._traces)
        self._add_services()
        await self._access.load()
        if self._cluster is None:
            await self.rooms.recover(await self.supervisor.reconcile())
        else:
            self._cluster.attend(self.supervisor, self.supervisor.quota)
            await self.rooms.recover(await self.supervisor.reconcile(), await self._cluster.had())
            await self._cluster.begin()
            self._be_node = self._tasks.create_task(self._cluster.run(self.rooms))
        await self._server.start(SERVICES)
        if self._http is not None:
            await self._http.start(self.supervisor, self.rooms, self._store, self._access, self._cluster)
        self._upkeep = self._tasks.create_task(keep_up(self._store, config.upkeep_interval))
        self._keep_access = self._tasks.create_task(self._access.keep())
        self._keep_audit = self._tasks.create_task(self._audit.run())
        if config.linger:
            self._linger = self._tasks.create_task(self._stop_when_unused(config.linger))
        log.info("ready", version=__version__, listen=self.addresses, data=str(config.data))

    async def drain(self) -> None:
        """Begins nothing new, and lets what was accepted come to its end, for as long as `drain_timeout`.

        Where sandboxes are kept nothing is waited for: cells go on without the controller.
        """
        self._access.draining = True
        await self._server.not_serving()
        if self._http is not None:
            self._http.not_ready("the controller is draining")
        if self._config.on_stop == "remove" and self.rooms.unfinished:
            log.info("draining", executions=self.rooms.unfinished, at_most_s=self._config.drain_timeout)
            try:
                async with asyncio.timeout(self._config.drain_timeout):
                    changes = self.rooms.changes
                    while self.rooms.unfinished:
                        await changes.after(changes.count)
            except TimeoutError:
                log.info("drained no further", executions=self.rooms.unfinished)

    async def stop(self) -> None:
        """Ends what is open, commits, and lets go of the data folder."""
        keep = self._config.on_stop == "keep" and not self.lost_because
        log.info("stopping", sandboxes="keep" if keep else "remove")
        if self._cluster is not None:
            self._be_node.cancel()
            if keep:
                self._cluster.left_behind(self._config.node.away)
        self._upkeep.cancel()
        self._keep_access.cancel()
        if self._config.linger:
            self._linger.cancel()
        self._access.stopping.set()
        if self._http is not None:
            self._http.stopping()
        await self.supervisor.stop(keep=keep)
        await self.rooms.close()
        await self.replicas.close()
        await self._server.stop(_GRACE_S)
        if self._http is not None:
            await self._http.stop()
        await self._access.note_used()
        self._keep_audit.cancel()
        await self._audit.flush()
        if self._cluster is not None:
            self._keep_lease.cancel()
            await asyncio.wait([self._keep_lease])
            await asyncio.to_thread(self._cluster.leave, self._config.node.away if keep else 0.0)
        await self._tasks.__aexit__(None, None, None)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close, _EXPORT_WITHIN_S)
        await asyncio.to_thread(self._store.close)
        (self._config.data / "controller.pid").unlink(missing_ok=True)
        os.close(self._data_lock)

    async def run(
        self,
        on_ready: Callable[[], None],
        on_stopping: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Serves until SIGTERM or SIGINT, and then drains; a second one ends the process at once.

        Where its node loses its lease it ends too. `on_lost` is called where that takes too long, because the store is
        away; it ends the process.
        """
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self.stopping.is_set():
                os._exit(1)
            self.stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await self.start()
        on_ready()
        await self._until_stopping()
        on_stopping()
        if self.lost_because:
            await self._leave_at_once(on_lost)
        else:
            await self.drain()
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

    @property
    def lost_because(self) -> str:
        """Why what this controller had is another node's now; empty while it is not."""
        return self._cluster.why_lost if self._cluster is not None and self._cluster.lost.is_set() else ""

    async def _leave_at_once(self, on_lost: Callable[[], None]) -> None:
        """Sandboxes go first, then everybody is told, and nothing is written."""

        async def leave() -> None:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.rooms.disown())
                # What waits for the store is told as soon as those in rooms: it would keep its client from going on.
                both.create_task(self._server.end_calls(_TOLD_WITHIN_S))
            await self.stop()

        leaving = asyncio.ensure_future(leave())
        await asyncio.wait([leaving], timeout=_LEFT_WITHIN_S)
        if not leaving.done():
            on_lost()
        await leaving

    async def _until_stopping(self) -> None:
        """Until somebody wants it to stop, or its node has lost its lease."""
        ends = [asyncio.ensure_future(self.stopping.wait())]
        if self._cluster is not None:
            ends.append(asyncio.ensure_future(self._cluster.lost.wait()))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        self.stopping.set()

    async def _new_notebook(self, ref: NotebookRef) -> Callable[[Connection], object]:
        return await self.rooms.new(ref)

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
        nodes_pb2_grpc.add_NodesServicer_to_server(Nodes(access, self._cluster), server)
        sessions = Sessions(access, rooms, supervisor, config, self._store.controller_id, self._node)
        sessions_pb2_grpc.add_SessionsServicer_to_server(sessions, server)
        tenants_pb2_grpc.add_TenantsServicer_to_server(Tenants(access, self._store), server)
        if config.reflection:
            Reflection(access, SERVICES).add_to(server)

    async def _stop_when_unused(self, linger: float) -> None:
        while True:
            since = self.rooms.unused_since
            left = linger if since is None else since + linger - time.monotonic()
            if left <= 0:
                log.info("unused, ending", after_s=linger)
                self.stopping.set()
                return
            await asyncio.sleep(left)


def _place(config: Config) -> places.Place:
    """Where the store is. What waits for a shared one gives up before a lease would."""
    place = places.of(config.store, config.data)
    if isinstance(place, places.Postgres):
        return replace(place, timeout_s=Terms(config.node.lease).attempt_s)
    return place


def _seal(config: Config) -> Seal:
    """What seals secrets before they are stored. Raises CannotListen."""
    if config.store.key_file is None:
        return Seal.of(config.data)
    try:
        return Seal.at(config.store.key_file)
    except (OSError, ValueError) as bad:
        raise CannotListen(f"store.key_file: {bad}", usage=True) from None


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
