"""The gRPC server: its limits, its listeners, and the locks that are held before anything is bound."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cellyard_controller.api import certificates
from cellyard_controller.api.unreadable import ReadsAnything
from cellyard_controller.config import Config

MIB = 1024 * 1024
MAX_MESSAGE = 64 * MIB
"""Bytes of an answer."""
_BESIDE = 8 * MIB
"""What a request may have beside the notebook that it imports, which is the largest thing that any brings."""
_MAX_SOCKET_PATH = 107
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two servers on one port would take calls from each other without an error
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 20 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Who connects says so at once. gRPC's own two minutes let connections pile up that nothing ever comes from.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.settings_timeout", 10_000),
    # Streams of one connection: more than a program of many sessions has. Each costs about 8 KB.
    ("grpc.max_concurrent_streams", 10_000),
    # What may come of a message that nobody asks for yet is 64 KiB, and no more where much comes. One that is asked
    # for gets room for all of it anyhow, so nothing is slower.
    ("grpc.http2.bdp_probe", 0),
    # A message of 64 KB may be one of 40 MiB compressed. Our clients do not compress.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)
_MOST_CONNECTIONS = 10_000
_FILES_A_LISTENER = 4
"""The part of the files that the process may open which one listener's connections may take: a fourth. The rest is for
the operator's socket, agents, engine and store."""


class CannotListen(Exception):
    """An address that cannot be listened on. `usage`: it is wrong in itself, whatever the machine's state."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a unix socket's path, or host and port."""

    path: Path | None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """`unix:PATH` or `HOST:PORT`. Raises CannotListen."""
        if text.startswith("unix:"):
            path = Path(text.removeprefix("unix:").removeprefix("//")).absolute()
            size = len(os.fsencode(path))
            if size > _MAX_SOCKET_PATH:
                raise CannotListen(
                    f"the socket path {path} has {size} bytes; at most {_MAX_SOCKET_PATH} are possible",
                    usage=True,
                )
            return cls(path)
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise CannotListen(f"{text!r} is no address: unix:PATH or HOST:PORT", usage=True)
        return cls(None, host.strip("[]"), int(port))

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines may reach it."""
        if self.path is not None or self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True  # a name; whatever it resolves to

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


def _connections() -> int:
    """How many connections one listener takes; the next is closed at once."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = _MOST_CONNECTIONS if files == resource.RLIM_INFINITY else files // _FILES_A_LISTENER
    return max(1, min(_MOST_CONNECTIONS, few))


def lock(path: Path, what: str) -> int:
    """Holds a file's lock until the process ends. Raises CannotListen where another controller has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failed:
        raise CannotListen(f"{what}: {failed.strerror} ({path}): choose another one or mend its rights") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise CannotListen(f"{what} is in use by another controller ({path} is locked): stop that one first") from None
    return descriptor


class Server:
    """The listening server. Add servicers to `grpc`, then `start`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        options = (
            *_OPTIONS,
            # What has come of a request is in memory, so it is no larger than it has to be.
            ("grpc.max_receive_message_length", config.limits.notebook + _BESIDE),
            ("grpc.max_allowed_incoming_connections", _connections()),
        )
        self.grpc = grpc.aio.server(options=options, interceptors=[ReadsAnything()])
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        self._locks: list[int] = []
        self._sockets: list[Path] = []
        self.addresses: list[str] = []

    def bind(self, addresses: list[Address]) -> None:
        """Binds every address. Raises CannotListen."""
        credentials = self._credentials()
        for address in addresses:
            if address.path is not None:
                self._bind_unix(address.path)
            else:
                self._bind_tcp(address, credentials)

    async def start(self, services: Iterable[str]) -> None:
        """Answers from now on. `services`: the names of those that were added, for clients that ask how one is."""
        await self.grpc.start()
        for name in ("", *services):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """From now on it says, by the health service, that clients had better go elsewhere. It answers still."""
        await self.health.enter_graceful_shutdown()

    async def end_calls(self, grace_s: float) -> None:
        """Takes no new calls, and ends those that are still open after some time; clients may ask again elsewhere."""
        await self.not_serving()
        await self.grpc.stop(grace_s)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, gives open ones some time, and removes the sockets."""
        await self.end_calls(grace_s)
        for path in self._sockets:
            path.unlink(missing_ok=True)
        for descriptor in self._locks:
            os.close(descriptor)

    def _bind_unix(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as failed:
            raise CannotListen(f"cannot make the folder of {path}: {failed.strerror}") from None
        self._locks.append(lock(path.with_name(path.name + ".lock"), f"the socket {path}"))
        try:
            self.grpc.add_insecure_port(f"unix:{path}")
            path.chmod(0o600)  # whoever connects is the operator
        except (RuntimeError, OSError) as failed:
            raise CannotListen(f"cannot listen on {path}: {failed}") from None
        self._sockets.append(path)
        self.addresses.append(f"unix:{path}")

    def _bind_tcp(self, address: Address, credentials: grpc.ServerCredentials | None) -> None:
        if address.beyond_loopback and credentials is None and not self._config.insecure_listen:
            raise CannotListen(
                f"{address} is reachable from other machines: give --tls-cert and --tls-key, or say --insecure-listen",
                usage=True,
            )
        host = f"[{address.host}]" if ":" in address.host else address.host
        target = f"{host}:{address.port}"
        try:
            if credentials is None:
                port = self.grpc.add_insecure_port(target)
            else:
                port = self.grpc.add_secure_port(target, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            raise CannotListen(f"cannot listen on {target}: the port is taken or not allowed; choose another one")
        self.addresses.append(f"{host}:{port}")

    def _credentials(self) -> grpc.ServerCredentials | None:
        try:
            return certificates.credentials(self._config)
        except certificates.BadCertificate as bad:
            raise CannotListen(str(bad), usage=True) from None
