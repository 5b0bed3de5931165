"""A package index of the tests' own on this machine's loopback: wheels that they write themselves, and what is none."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from tests.authority import Pair


def wheel(
    name: str,
    version: str,
    files: dict[str, str],
    requires: Sequence[str] = (),
    record: Mapping[str, str] | None = None,
) -> bytes:
    """A wheel for every platform with these files. `record`: what its RECORD has, in place of the truth."""
    about = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    content = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = content if record is None else record
    lines = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in listed.items())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in {**content, f"{about}/RECORD": f"{lines}{about}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return packed.getvalue()


def sources(name: str, version: str, files: dict[str, str]) -> bytes:
    """An archive of sources with these files."""
    packed = io.BytesIO()
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in {"PKG-INFO": about, **files}.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class PackageIndex:
    """Serves what is added to it."""

    def __init__(self, tls: Pair | None = None) -> None:
        self._files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        """The path of each request."""
        self.reached = threading.Event()
        """Set at each request."""
        self.open = threading.Event()
        """While it is not set, nobody is answered."""
        self.open.set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.index = self
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple/"

    def add(self, name: str, version: str, files: dict[str, str] | None = None, requires: Sequence[str] = ()) -> None:
        """A wheel; without files, of one module that knows its version."""
        given = files if files is not None else {f"{name}.py": f"VERSION = {version!r}\n"}
        self.add_file(name, f"{name}-{version}-py3-none-any.whl", wheel(name, version, given, requires))

    def add_sources(self, name: str, version: str, files: dict[str, str]) -> None:
        """A package that has no wheel."""
        self.add_file(name, f"{name}-{version}.tar.gz", sources(name, version, files))

    def add_file(self, name: str, file: str, content: bytes) -> None:
        """Whatever it may be."""
        self._files.setdefault(name.replace("_", "-"), {})[file] = content

    def fetched(self, file: str) -> int:
        """How often a file was asked for, as a whole or in parts."""
        return sum(path.endswith(f"/{file}") for path in self.asked)

    def answer(self, path: str) -> bytes | None:
        """What lies there."""
        self.asked.append(path)
        self.reached.set()
        self.open.wait(60)
        parts = path.strip("/").split("/")
        files = self._files.get(parts[1]) if len(parts) > 1 else None
        if files is None:
            return None
        if len(parts) == 2:
            return ("<!DOCTYPE html>" + "".join(f'<a href="{name}">{name}</a>' for name in files)).encode()
        return files.get(parts[2])

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    index: PackageIndex

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        content = self.server.index.answer(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body:
            self.wfile.write(content or b"")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""
