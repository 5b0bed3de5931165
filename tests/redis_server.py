"""A Redis server of a test's own, at a unix socket, that can be killed and started again."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

STARTS_WITHIN_S = 60.0


class RedisServer:
    """Keeps its data in a folder. What it has confirmed is on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`folder` has a short path. `options` are more of the server's own."""
        program = shutil.which("redis-server")
        assert program is not None, "there is no redis-server: `make redis` installs it"
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        fixed = {"port": "0", "unixsocket": str(self.socket), "dir": str(folder), "save": "", "daemonize": "no"}
        log = {"appendonly": "yes", "appendfsync": "always", "logfile": ""}
        self._command = [program]
        for name, value in (fixed | log).items():
            self._command += [f"--{name}", value]
        self._command += options
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        ready = threading.Event()
        lines: list[str] = []
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = process.stdout
        assert output is not None

        def read() -> None:
            for line in output:
                lines.append(line)
                if "ready to accept connections" in line.lower():
                    ready.set()
            ready.set()

        self._process = process
        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert ready.wait(STARTS_WITHIN_S), "".join(lines)
        assert process.poll() is None, "".join(lines)

    def kill(self) -> None:
        """Ends it as a loss of power would, and waits until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    close = kill
