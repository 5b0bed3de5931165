"""The protocol over HTTP: one address, one token, and only names that this server is known by.

The token is the right to run code as whoever started the server, so every request needs it, on loopback too: there
any user of the machine can connect, and so can a page in a browser.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cellyard.errors import InvalidRequest, PermissionDenied

PATH = "/mcp"
MAX_BODY = 16 * 1024 * 1024
MAX_SESSIONS = 100
MAX_CONNECTIONS = 256
REQUEST_WITHIN_S = 10.0
"""Seconds from connecting until a request's headers are there."""
CLOSE_WITHIN_S = 3
"""Seconds for connections that are open when the server ends."""

_TOKEN = re.compile(r"[!-~]{32,4096}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and the names under which clients come."""

    host: str
    port: int
    names: tuple[str, ...]

    def hosts(self, port: int) -> list[str]:
        """The Host headers that are right."""
        return [f"{_bracketed(name)}:{port}" for name in self.names]


def address(listen: str, names: Sequence[str], *, insecure: bool) -> Address:
    """HOST:PORT, read. Raises InvalidRequest for what is none, and beyond loopback unless `insecure`."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidRequest(f"{listen!r} is no address: write HOST:PORT, for example 127.0.0.1:8000")
    try:
        given = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InvalidRequest(f"{host!r} is no address to listen on: localhost, or digits") from None
    if given.is_loopback:
        return Address(str(given), int(port), (str(given), "localhost", "127.0.0.1", "::1", *names))
    if not insecure:
        raise InvalidRequest(
            f"{listen} can be reached from other machines, and there is no TLS: put a proxy with TLS before a loopback"
            " address, or say --insecure-listen"
        )
    if given.is_unspecified and not names:
        raise InvalidRequest(f"{listen} is every address of this machine: say with --http-host how clients call it")
    return Address(str(given), int(port), (*(() if given.is_unspecified else (str(given),)), *names))


def token_file(path: Path) -> str:
    """The token in a file, which is made where it is missing.

    Raises PermissionDenied for a file that others can read, InvalidRequest for one that holds no token.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as made:
                made.write(f"{secrets.token_urlsafe(32)}\n")
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(8192).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidRequest(f"the token's file {path} cannot be used: {why}") from None
    if mode & 0o077:
        raise PermissionDenied(f"{path} can be read by others (mode {mode & 0o777:04o}): `chmod 600 {path}`")
    if _TOKEN.fullmatch(token) is None:
        raise InvalidRequest(f"{path} holds no token: 32 printable characters at least, without blanks")
    return token


def bind(where: Address) -> socket.socket:
    """Listens. Raises InvalidRequest where that cannot be."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((where.host, where.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InvalidRequest(f"cannot listen on {where.host}:{where.port}: {error.strerror}") from None
    return listening


class _Server(uvicorn.Server):
    """Ends when it is told to; signals are for whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Prompt(H11Protocol):
    """Closes a connection over which nobody asks for anything: whoever holds one keeps others out."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_WITHIN_S, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Guarded:
    """Lets nobody in without the token; who has it reaches one path."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._digest = _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # uvicorn refuses a websocket that nobody accepts
        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # A missing token and a wrong one are answered alike.
        if not hmac.compare_digest(_digest(given.strip()), self._digest) or kind.lower() != "bearer":
            headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            return PlainTextResponse("a token is needed: Authorization: Bearer TOKEN\n", 401, headers)
        if scope["path"] != PATH:
            return PlainTextResponse(f"nothing here; the protocol is spoken at {PATH}\n", 404)
        return None


async def serve(
    server: Server[Any, Any], listening: socket.socket, where: Address, token: str, stop: asyncio.Event
) -> None:
    """Serves until `stop`; requests that are under way are cancelled then."""
    port = listening.getsockname()[1]
    hosts = where.hosts(port)
    manager = StreamableHTTPSessionManager(
        server,
        security_settings=TransportSecuritySettings(
            allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts]
        ),
        max_request_body_size=MAX_BODY,
        max_sessions=MAX_SESSIONS,
    )
    settings = uvicorn.Config(
        _Guarded(manager.handle_request, token),
        http=_Prompt,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
    )
    http = _Server(settings)
    async with manager.run():
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
    # Their sessions are over: so the streams that clients hold open end, and nothing keeps the server.
    http.should_exit = True
    await serving


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
