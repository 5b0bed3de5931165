"""A controller as a process, for tests that mean the real thing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import docker

STOPPED_WITHIN = 60.0
_REMOVED = (404, 409)
"""What the engine says of a container that it has removed, or is removing on a controller's last order."""
NO_POOL = {"CELLYARD_POOL__SIZE": "0"}
"""What is about something else is told its sandboxes one by one."""


class Process:
    """A controller that runs as its own process on a data folder of its own."""

    def __init__(self, folder: Path, engine: str = "") -> None:
        """`engine`: the address of another engine than the usual one."""
        self.engine = engine
        self.folder = folder
        self.data = folder / "data"
        self.endpoint = f"unix:{folder}/c.sock"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, env: dict[str, str] | None = None) -> None:
        """Starts it and waits until it is ready."""
        with self.launch(*flags, env=env) as ready:
            said = ready.read()
        assert said == b"ready\n", self.log.read_text()

    def launch(self, *flags: str, env: dict[str, str] | None = None) -> BinaryIO:
        """Starts it. What is returned reads "ready" once it is, and ends then, or with it."""
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "cellyard_controller", "serve", "--data", str(self.data)]
        command += ["--listen", self.endpoint, "--ready-fd", str(writer), *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                env={**os.environ, **NO_POOL, **self._host(), **(env or {})},
            )
        os.close(writer)
        return os.fdopen(reader, "rb")

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOPPED_WITHIN)

    def close(self) -> None:
        """Ends it and whatever it left on the engine."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for container in self.containers():
            try:
                container.remove(force=True)
            except docker.errors.APIError as failed:
                if failed.status_code not in _REMOVED:
                    raise

    def containers(self) -> list[docker.models.containers.Container]:
        """What the engine has of this controller, ended ones too."""
        client = docker.from_env(timeout=30, environment={**os.environ, **self._host()})
        try:
            mine = []
            for container in client.containers.list(
                all=True, filters={"label": "cellyard.controller"}, ignore_removed=True
            ):
                mounts = container.attrs["HostConfig"].get("Mounts") or []
                binds = container.attrs["HostConfig"].get("Binds") or []
                sources = [mount.get("Source", "") for mount in mounts] + [bind.split(":")[0] for bind in binds]
                if any(source.startswith(str(self.folder)) for source in sources):
                    mine.append(container)
            return mine
        finally:
            client.close()

    def _host(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.engine} if self.engine else {}
