"""Where the controller is, and how to prove who asks: from arguments and the environment to an `Endpoint`.

Order: the argument, `CELLYARD_ENDPOINT`, `RUNTIMED_SOCKET_PATH` (a bare path), else the user's own socket.
Only the user's own gets a controller started, and only it must lie in a folder that nobody else can enter:
gRPC cannot tell who is behind a unix socket, the folder can.
"""

from __future__ import annotations

import errno
import os
import re
import socket as sockets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cellyard.errors import ControllerUnavailable, InvalidRequest, PermissionDenied, Unauthenticated

MAX_SOCKET_PATH = 107
"""Bytes that Linux takes as the path of a unix socket, without the closing NUL."""

_TOKEN = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class TLS:
    """Files (PEM) for a TLS connection. `ca` replaces the system's roots; `cert` and `key` prove the client."""

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A controller's address, ready to connect to."""

    name: str
    """As people write it: unix:PATH or HOST:PORT."""
    socket: Path | None
    """The unix socket; None for TCP."""
    token: str | None = None
    tls: TLS | None = None
    own: bool = False
    """The user's own controller, started where none runs."""
    tls_beyond: TLS | None = None
    """Of a unix socket: what the environment says of TLS, for where its controller may redirect to."""

    @property
    def target(self) -> str:
        """As gRPC takes it: a unix path is the path of a URI there, so what is special in URIs is escaped."""
        return f"unix:{quote(os.fspath(self.socket))}" if self.socket is not None else self.name

    @property
    def loopback(self) -> bool:
        """Whether it can only be on this machine."""
        host = self.name.rsplit(":", 1)[0]
        return self.socket is not None or host in ("localhost", "[::1]") or host.startswith("127.")


def resolve(
    endpoint: str | None = None,
    token: str | None = None,
    tls: bool | TLS = False,
    environ: Mapping[str, str] = os.environ,
) -> Endpoint:
    """The endpoint that arguments and environment name. TLS of the environment is for HOST:PORT alone.

    Raises InvalidRequest for an address that is none, Unauthenticated for a token that cannot travel.
    """
    files = _tls(tls)
    if endpoint is None and environ.get("CELLYARD_ENDPOINT"):
        endpoint = environ["CELLYARD_ENDPOINT"]
    elif endpoint is None and environ.get("RUNTIMED_SOCKET_PATH"):
        endpoint = f"unix:{environ['RUNTIMED_SOCKET_PATH']}"
    own = endpoint is None
    if endpoint is None:
        endpoint = f"unix:{own_socket(environ)}"
    elif token is None:
        token = environ.get("CELLYARD_TOKEN") or None
    if token is not None:
        _check_token(token)
    name, path = parse(endpoint)
    if files is None and path is None:
        files = _tls_of(environ)
    if path is not None and files is not None:
        raise InvalidRequest(f"{name} is a unix socket: TLS is for HOST:PORT")
    return Endpoint(name, path, token, files, own, _tls_of(environ) if path is not None else None)


def _tls(tls: object) -> TLS | None:
    if not tls:
        return None
    if tls is not True and not isinstance(tls, TLS):
        raise InvalidRequest(f"tls must be True or a cellyard.TLS, not {type(tls).__name__}")
    return TLS() if tls is True else tls


def _tls_of(environ: Mapping[str, str]) -> TLS | None:
    """What the environment says: CELLYARD_CA is a file or `system`, with CELLYARD_CLIENT_CERT and _KEY beside it."""
    ca = environ.get("CELLYARD_CA")
    if not ca:
        return None
    cert, key = environ.get("CELLYARD_CLIENT_CERT") or None, environ.get("CELLYARD_CLIENT_KEY") or None
    return TLS(None if ca == "system" else ca, cert, key)


def _check_token(token: object) -> None:
    # The same words as for a token that is not in force: nobody learns which it was.
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise Unauthenticated("authentication failed")


def parse(endpoint: object) -> tuple[str, Path | None]:
    """An endpoint's name, and its unix socket where it is one. Raises InvalidRequest for what is no endpoint."""
    if not isinstance(endpoint, str) or "\0" in endpoint:
        raise InvalidRequest("an endpoint is text: unix:PATH or HOST:PORT")
    if endpoint.startswith("unix:"):
        path = endpoint.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
        if not path:
            raise InvalidRequest("the endpoint unix: names no path")
        path = os.path.abspath(path)
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH:
            raise InvalidRequest(
                f"the socket path {path} has {length} bytes, and a unix socket takes at most {MAX_SOCKET_PATH}:"
                " choose a shorter one"
            )
        return f"unix:{path}", Path(path)
    host, _, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or not (port.isascii() and port.isdigit()) or (":" in host and not bracketed) or "/" in host:
        raise InvalidRequest(f"{endpoint!r} is no endpoint: write unix:PATH or HOST:PORT")
    if not 0 < int(port) < 65536:
        raise InvalidRequest(f"{endpoint!r} is no endpoint: a port is a number from 1 to 65535")
    return endpoint, None


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own controller keeps its data and its log."""
    state = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(os.path.abspath(state)) / "cellyard"


def own_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """The socket of the user's own controller."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    folder = Path(os.path.abspath(runtime)) / "cellyard" if runtime else state_dir(environ) / "run"
    return folder / "controller.sock"


def check_folder(folder: Path) -> None:
    """Refuses a folder that somebody else could have put a socket into.

    Raises PermissionDenied unless it is a real folder of this user's, closed to everybody else (0700).
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionDenied(f"{folder} is no folder: remove it, the controller's socket belongs there")
    if status.st_uid != os.getuid():
        raise PermissionDenied(
            f"{folder} belongs to user {status.st_uid}, not to {os.getuid()}: a controller there cannot be trusted"
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionDenied(f"{folder} is open to others (mode {mode:04o}): `chmod 700 {folder}`")


def listening(path: Path) -> bool:
    """Whether somebody listens on this unix socket. Raises OSError for anything but an absent listener."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(os.fspath(path))
    if result in (errno.ENOENT, errno.ECONNREFUSED):
        return False
    if result not in (0, errno.EAGAIN):  # EAGAIN: its queue is full, so there is one
        raise OSError(result, os.strerror(result), os.fspath(path))
    return True


def require_listener(endpoint: Endpoint) -> None:
    """Says in a sentence why a unix socket cannot be connected to. Raises ControllerUnavailable."""
    if endpoint.socket is None:
        return
    try:
        if listening(endpoint.socket):
            return
        why, again = "nobody listens there", True
    except OSError as error:
        why, again = error.strerror or str(error), False
    remedy = "" if endpoint.own else f": start one with `cellyard serve --listen {endpoint.name}`"
    raise ControllerUnavailable(
        f"no controller at {endpoint.name}, {why}{remedy}", retryable=again, details={"endpoint": endpoint.name}
    )
