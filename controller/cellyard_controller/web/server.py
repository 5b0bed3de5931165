"""The HTTP server: where it listens, who may read what, and what its answers look like."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from cellyard_controller.api.server import Address, CannotListen
from cellyard_controller.config import Config
from cellyard_controller.web.console.answers import HARDENING
from cellyard_controller.web.token import TokenFile

log = structlog.get_logger()

MAX_LINE = MAX_FIELD = 8 * 1024
MAX_HEADERS = 64
MAX_BODY = 64 * 1024
MAX_CONNECTIONS = 64
"""Beside those that carry a stream of the console, of which there is a number of its own."""
TOKEN_FILE = "http.token"
_KEEP_ALIVE_S = 30.0
_STOP_WITHIN_S = 2.0
_HANDSHAKE_WITHIN_S = 10.0
_BACKLOG = 64
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    **HARDENING,
}

Ready = Callable[[], str]
"""Why the controller is not ready; "" where it is."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Health for everybody, the rest for who has a token. `bind`, then `start`, last `stop`."""

    def __init__(self, config: Config) -> None:
        """Raises CannotListen where the configuration cannot be served."""
        self._config = config
        self._address = _address(config)
        self._tls = _tls(config)
        self._socket: socket.socket | None = None
        self._token: TokenFile | None = None
        self._streaming: Collection[object] = ()
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def secure(self) -> bool:
        """Whether it is served over TLS."""
        return self._tls is not None

    @property
    def token(self) -> TokenFile:
        """The operator's."""
        assert self._token is not None
        return self._token

    @property
    def address(self) -> str:
        """Where it listens, the port filled in."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def bind(self) -> None:
        """Takes the address, and makes the token where there is none. Raises CannotListen."""
        given = self._config.http.token_file
        self._token = TokenFile(given or self._config.data / TOKEN_FILE, make=given is None)
        host, port = self._address.host, self._address.port
        try:
            family, kind, _, _, target = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(target)
        except OSError as failed:
            self.close()
            raise CannotListen(f"cannot listen on {self._address} for HTTP: {failed.strerror}") from None

    async def start(
        self,
        registry: CollectorRegistry,
        ready: Ready,
        add_more: Callable[[web.Application], None],
        streaming: Collection[object],
    ) -> None:
        """Answers from now on. `add_more` adds routes; connections in `streaming` are not ended to make room."""
        assert self._socket is not None
        self._streaming = streaming
        runner = self._runner = web.AppRunner(
            application(registry, ready, self.token, add_more),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEP_ALIVE_S,
            shutdown_timeout=_STOP_WITHIN_S,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
        )
        await runner.setup()
        handshake = _HANDSHAKE_WITHIN_S if self._tls is not None else None
        self._listening = await asyncio.get_running_loop().create_server(
            self._connection, sock=self._socket, ssl=self._tls, ssl_handshake_timeout=handshake, backlog=_BACKLOG
        )

    async def stop(self) -> None:
        """Ends open connections."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self.close()

    def close(self) -> None:
        """Lets go of the address."""
        if self._socket is not None:
            self._socket.close()

    def _connection(self) -> asyncio.Protocol:
        """The protocol of a new connection. Who opens many and says nothing loses the oldest; nobody is kept out.

        A page that is open keeps its connection, which is no hindrance to others: streams are for those who have
        shown a token, and counted by themselves.
        """
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        there = [each for each in server.connections if each.transport is not None and each not in self._streaming]
        for oldest in there[: max(0, len(there) + 1 - MAX_CONNECTIONS)]:
            oldest.force_close()
        return server()


def application(
    registry: CollectorRegistry, ready: Ready, token: TokenFile, add_more: Callable[[web.Application], None]
) -> web.Application:
    """What is served."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why_not = ready()
        return web.Response(text=f"{why_not or 'ready'}\n", status=503 if why_not else 200)

    async def metrics(request: web.Request) -> web.Response:
        if not token.allows(request.headers.get("Authorization", "")):
            raise web.HTTPUnauthorized(text="authentication failed\n", headers={"WWW-Authenticate": "Bearer"})
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (ValueError, TypeError):  # a version that is none
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    served = web.Application(client_max_size=MAX_BODY, middlewares=[_plain_failures])
    served.router.add_get("/healthz", healthz)
    served.router.add_get("/readyz", readyz)
    served.router.add_get("/metrics", metrics)
    add_more(served)
    served.on_response_prepare.append(_harden)
    return served


@web.middleware
async def _plain_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A defect is logged here and told to nobody."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:
        log.exception("a request failed", path=request.path[:200])
        raise web.HTTPInternalServerError(text="internal error; the controller's log says more\n") from None


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "cellyard"  # and not which versions of what


def _address(config: Config) -> Address:
    address = Address.parse(config.http.listen)
    if address.path is not None:
        raise CannotListen(f"HTTP is served over TCP: --http takes HOST:PORT, not {config.http.listen!r}", usage=True)
    if address.beyond_loopback and config.tls_cert is None and not config.insecure_listen:
        raise CannotListen(
            f"--http {address} is reachable from other machines: give --tls-cert and --tls-key, or say "
            "--insecure-listen",
            usage=True,
        )
    return address


def _tls(config: Config) -> ssl.SSLContext | None:
    cert, key = config.tls_cert, config.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise CannotListen("--tls-cert and --tls-key belong together", usage=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as bad:
        raise CannotListen(f"{cert} and {key} are no certificate and its key: {bad.reason}", usage=True) from None
    except OSError as failed:
        raise CannotListen(f"cannot read {cert} or {key}: {failed.strerror}", usage=True) from None
    return context
