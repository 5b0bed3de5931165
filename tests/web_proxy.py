"""A proxy of the tests' own on this machine's loopback: it alone knows where the names lead that it is asked for."""

from __future__ import annotations

import base64
import http.client
import http.server
import selectors
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

CREDENTIALS = ("operator", "hush-proxy")


class WebProxy:
    """Passes requests on, by absolute URL or CONNECT, to the ports of this machine that names are mapped to."""

    def __init__(self, ports: dict[str, int]) -> None:
        """`ports`: by name, whatever the port that is asked for."""
        self.ports = ports
        self.asked: list[tuple[str, str]] = []
        """Method and target of each request that was passed on."""
        self.refused = 0
        """How many came without the credentials."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """With the credentials that it wants."""
        name, password = CREDENTIALS
        return f"http://{name}:{password}@127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    proxy: WebProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_CONNECT(self) -> None:
        port = self._port(self.path.rpartition(":")[0])
        if port is None:
            return
        with socket.create_connection(("127.0.0.1", port)) as target:
            self.send_response(200)
            self.end_headers()
            _tunnel(self.connection, target)
        self.close_connection = True

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        target = urlsplit(self.path)
        port = self._port(target.hostname or "")
        if port is None:
            return
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(self.command, target.path)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name in ("Content-Type", "Content-Length"):
            self.send_header(name, answer.headers[name])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        connection.close()

    def _port(self, name: str) -> int | None:
        """Where a name leads; None where the request was refused."""
        wanted = base64.b64encode(":".join(CREDENTIALS).encode()).decode()
        if self.headers.get("Proxy-Authorization") != f"Basic {wanted}":
            self.server.proxy.refused += 1
            self.send_response(407)
            self.send_header("Proxy-Authenticate", "Basic realm=tests")
        elif name not in self.server.proxy.ports:
            self.send_response(502)
        else:
            self.server.proxy.asked.append((self.command, self.path))
            return self.server.proxy.ports[name]
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


def _tunnel(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways, until either end is gone."""
    with selectors.DefaultSelector() as ready:
        for mine, theirs in ((one, other), (other, one)):
            ready.register(mine, selectors.EVENT_READ, theirs)
        while True:
            for key, _ in ready.select():
                assert isinstance(key.fileobj, socket.socket)
                try:
                    content = key.fileobj.recv(65_536)
                    key.data.sendall(content)
                except OSError:
                    return
                if not content:
                    return
