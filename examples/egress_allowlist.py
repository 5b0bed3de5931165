"""Code that may reach one host and nothing else.

    python examples/egress_allowlist.py

The sandbox has no network, with a list either. What a program in it asks for (pip, git, requests, urllib: whatever
heeds HTTP_PROXY) goes over a unix socket to a proxy of the controller, which looks names up in the template's list,
resolves them outside and checks the addresses: a name that leads inside (loopback, private, link-local, metadata) is
refused even if it is on the list, and so is an address in place of a name. Refusals are events of the execution.

The list is the operator's, so this example is operator and user in one: it writes a configuration and starts a
controller with it, on a socket of its own. The one host is a server of this program. Its address is this machine's
own, which no name may lead to, unless the operator says so (`network.hosts`): that is how a mirror inside one's
network is offered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cellyard

CODE = """
import urllib.error, urllib.request

def ask(url):
    try:
        return urllib.request.urlopen(url, timeout=20).read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code}"
    except OSError as error:
        return f"{error}"

[ask(url) for url in URLS]
"""


class Mirror(BaseHTTPRequestHandler):
    """The one host that may be reached."""

    def do_GET(self) -> None:
        body = b"what the mirror has"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written down."""


@contextmanager
def controller(folder: Path, configuration: str) -> Iterator[str]:
    """A controller with this configuration; its endpoint."""
    (folder / "cellyard.toml").write_text(configuration)
    endpoint = f"unix:{folder}/c.sock"
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "cellyard.cli", "serve", "--data", str(folder / "data"), "--listen", endpoint]
    command += ["--config", str(folder / "cellyard.toml"), "--pool", "0", "--ready-fd", str(writer)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(writer,))
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as ready:
            if ready.read() != b"ready\n":
                raise RuntimeError((folder / "log").read_text())
        yield endpoint
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Asks for what is listed, and for what is not."""
    mirror = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=mirror.serve_forever, daemon=True).start()
    port = mirror.server_port
    allow = [f"mirror.internal:{port}", f"localhost:{port}"]
    configuration = f"""
[templates.default]
network = "allowlist"
allow = {json.dumps(allow)}

[network.hosts]
"mirror.internal" = "127.0.0.1"
"""
    urls = [
        f"http://mirror.internal:{port}/",  # on the list, and the operator says where it is
        f"http://localhost:{port}/",  # on the list, and leads inside
        f"http://127.0.0.1:{port}/",  # an address
        "http://elsewhere.example/",  # not on the list
    ]
    with tempfile.TemporaryDirectory(prefix="cy") as folder, controller(Path(folder), configuration) as endpoint:
        # Without NO_PROXY, which spares the sandbox's own loopback the way out: here all are to be asked for outside.
        plain = {"NO_PROXY": "", "no_proxy": ""}
        with cellyard.Session(endpoint=endpoint, env=plain) as session:
            for event in session.stream_execute(code=CODE.replace("URLS", repr(urls))):
                if isinstance(event, cellyard.Warned):
                    print(f"    (refused: {event.details['host']}, {event.details['reason']})")
                elif isinstance(event, cellyard.Finished):
                    for url, said in zip(urls, event.result.value, strict=True):
                        print(f"{url.replace(f':{port}', '')} -> {said}")
    mirror.shutdown()


if __name__ == "__main__":
    main()
