"""HAProxy, as the packaged file sets it up, in front of two controllers on this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.authority import Authority

PACKAGED = Path(__file__).parents[3] / "packaging" / "haproxy" / "haproxy.cfg"
WITHIN_S = 60.0
_PAUSE_S = 0.05
_UP = "2"


class Balancer:
    """Listens at `connections` and at `calls`, as the file calls them."""

    def __init__(self, folder: Path, ours: Authority, nodes: list[tuple[str, str]]) -> None:
        """`nodes`: of each controller the address for gRPC and that of HTTP."""
        self._socket = folder / "haproxy.sock"
        self.connections, self.calls = _free_address(), _free_address()
        own = ours.sign("balancer", "127.0.0.1")
        both = folder / "balancer.pem"
        both.write_bytes(own.cert.read_bytes() + own.key.read_bytes())
        env = {
            "LISTEN": self.connections,
            "LISTEN_CALLS": self.calls,
            "NODES_NAME": "localhost",
            "CONTROLLERS_CA": str(ours.ca),
            "BALANCER_PEM": str(both),
        }
        for number, (grpc, http) in enumerate(nodes, 1):
            env |= {f"NODE{number}": grpc, f"HTTP{number}": str(urlsplit(http).port)}
        asked = folder / "asked.cfg"
        asked.write_text(f"global\n    stats socket {self._socket}\n")
        program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "there is no haproxy: `make haproxy` installs it"
        self._log = (folder / "haproxy.log").open("w+")
        self._process = subprocess.Popen(
            [program, "-db", "-f", str(PACKAGED), "-f", str(asked)],
            env={**os.environ, **env},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    async def until(self, **up: bool) -> None:
        """Waits until it listens and takes the servers for up or down, by their names in the file."""
        async with asyncio.timeout(WITHIN_S):
            while await self._states() != up:
                assert self._process.poll() is None, self._said()
                await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    async def _states(self) -> dict[str, bool]:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return {}
        writer.write(b"show servers state\n")
        lines = [line.split() for line in (await reader.read()).decode().splitlines()]
        writer.close()
        rows = [dict(zip(lines[1][1:], line, strict=False)) for line in lines[2:] if line]
        states: dict[str, set[bool]] = {}
        for row in rows:
            states.setdefault(row["srv_name"], set()).add(row["srv_op_state"] == _UP)
        return {name: every.pop() for name, every in states.items() if len(every) == 1}

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"
