"""An HTTP server on this machine's loopback that answers as tests want, and keeps what it was asked."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    """As it came, with the query."""
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    forever: bool = False
    """Whether the content is sent again and again, until nobody wants it."""
    until: threading.Event | None = None
    """What is waited for before anything is sent."""


Respond: TypeAlias = Callable[[Asked], Answer]


class HttpServer:
    def __init__(self, server: _Server) -> None:
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_port}"

    @property
    def asked(self) -> list[Asked]:
        return self._server.asked


@contextmanager
def serving(respond: Respond) -> Iterator[HttpServer]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.respond = respond
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield HttpServer(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    respond: Respond
    asked: list[Asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        self.server.asked.append(asked)
        answer = self.server.respond(asked)
        if answer.until is not None:
            answer.until.wait(60)
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.forever:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)
        while answer.forever:
            self.wfile.write(answer.content)

    def do_GET(self) -> None:
        self._any()

    def do_POST(self) -> None:
        self._any()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""
