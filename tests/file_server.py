"""The tests' own HTTP server, on this machine's loopback: it can be made to wait, and tells what it was asked."""

from __future__ import annotations

import http.server
import ssl
import threading
from abc import ABC, abstractmethod
from typing import Any

from tests.authority import Pair


class FileServer(ABC):
    """Serves what `content` finds."""

    def __init__(self, tls: Pair | None = None) -> None:
        self.asked: list[str] = []
        """The path of each request."""
        self.reached = threading.Event()
        """Set at each request."""
        self.open = threading.Event()
        """While it is not set, nobody is answered."""
        self.open.set()
        self._tls = tls
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.files = self
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            # Whoever is slow at the handshake holds up nobody else: it is done by the first read.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    @abstractmethod
    def content(self, path: str) -> bytes | None:
        """What lies there."""

    def fetched(self, file: str) -> int:
        """How often a file was asked for, as a whole or in parts."""
        return sum(path.endswith(f"/{file}") for path in self.asked)

    def answer(self, path: str) -> bytes | None:
        self.asked.append(path)
        self.reached.set()
        self.open.wait(60)
        return self.content(path)

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    files: FileServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        content = self.server.files.answer(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body:
            self.wfile.write(content or b"")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""
