"""Servers of the tests' own on this machine's loopback: plain HTTP and HTTPS, a package index, a git repository."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.server
import os
import ssl
import subprocess
import threading
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "mirror.test"
"""The name in the certificate. No DNS knows it: whoever reaches it was told the address by the proxy's settings."""


class Servers:
    """An HTTP and an HTTPS server over one folder: `hello`, `simple/` with a package, `tiny.git`."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self.site = folder / "site"
        self.site.mkdir()
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""
        (self.site / "hello").write_text("hello")
        _package(self.site / "simple" / "tiny")
        _repository(folder, self.site / "tiny.git")
        certificate = _certificates(folder, self.ca)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        self._servers = [_Server(self), _Server(self)]
        self._servers[1].socket = context.wrap_socket(
            self._servers[1].socket, server_side=True, do_handshake_on_connect=False
        )
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def http_port(self) -> int:
        return self._servers[0].server_port

    @property
    def https_port(self) -> int:
        return self._servers[1].server_port

    @property
    def http(self) -> str:
        """The start of each URL."""
        return f"http://{NAME}:{self.http_port}"

    @property
    def https(self) -> str:
        return f"https://{NAME}:{self.https_port}"

    @property
    def allow(self) -> list[str]:
        """Both, as entries of a list."""
        return [f"{NAME}:{self.http_port}", f"{NAME}:{self.https_port}"]

    def trust(self, ca: str) -> dict[str, str]:
        """Variables that make urllib, requests, pip and git trust the certificate, which lies at this path."""
        return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"), ca)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __init__(self, *arguments: Any, **more: Any) -> None:
        site = arguments[2].servers.site
        with suppress(OSError):
            super().__init__(*arguments, directory=str(site), **more)

    def do_GET(self) -> None:
        self.server.servers.asked.append((self.command, self.path))
        super().do_GET()

    def do_POST(self) -> None:
        """Says what came: its length, how it was framed, and a digest."""
        self.server.servers.asked.append((self.command, self.path))
        body = self._body()
        said = f"{len(body)} {hashlib.sha256(body).hexdigest()} {self.headers.get('Transfer-Encoding', '-')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


def _package(folder: Path) -> None:
    """A wheel and the page of a simple index that names it."""
    folder.mkdir(parents=True)
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    files = {
        "tiny.py": "ANSWER = 42\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for name, text in files.items()
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, "tiny-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>')


def _repository(folder: Path, bare: Path) -> None:
    """A bare repository with one commit, ready for git's plain ("dumb") way over HTTP."""
    work = folder / "work"
    work.mkdir()
    (work / "README").write_text("tiny\n")
    who = {f"GIT_{role}_{what}": "tests@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
    for command in (
        ["git", "init", "-q", "-b", "main", "."],
        ["git", "add", "README"],
        ["git", "commit", "-q", "-m", "One"],
        ["git", "clone", "-q", "--bare", ".", str(bare)],
        ["git", f"--git-dir={bare}", "update-server-info"],
    ):
        subprocess.run(command, cwd=work, env=env, check=True)


def _certificates(folder: Path, ca_file: Path) -> Path:
    """A certificate authority and, from it, a certificate for NAME with its key."""
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])

    def builder(name: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    basic = x509.BasicConstraints(ca=True, path_length=None)
    root = builder("tests", authority.public_key()).add_extension(basic, critical=True)
    ca_file.write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
    leaf = builder(NAME, key.public_key()).add_extension(names, critical=False).sign(authority, hashes.SHA256())
    certificate = folder / "server.pem"
    certificate.write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate
