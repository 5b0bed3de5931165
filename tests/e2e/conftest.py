"""Real controllers as processes, real containers. Nothing here is a fake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import images

READY_WITHIN = 60.0
STOPPED_WITHIN = 60.0


@pytest.fixture(scope="session")
def built_image() -> str:
    """The default image, built where it is missing. Without an engine: skipped, but failed in CI."""
    try:
        client = images.connect()
    except RuntimeFailed as failure:
        if os.environ.get("CI"):
            pytest.fail(str(failure))
        pytest.skip(str(failure))
    try:
        return images.build(print, client=client)
    finally:
        client.close()


class Process:
    """A controller that runs as its own process on a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.endpoint = f"unix:{folder}/c.sock"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, env: dict[str, str] | None = None) -> None:
        """Starts it and waits until it is ready."""
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "cellyard_controller", "serve", "--data", str(self.data)]
        command += ["--listen", self.endpoint, "--ready-fd", str(writer), *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, pass_fds=(writer,), env={**os.environ, **(env or {})}
            )
        os.close(writer)
        with os.fdopen(reader, "rb") as ready:
            said = ready.read()  # until it is ready or dead: both close the pipe
        assert said == b"ready\n", self.log.read_text()

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
            container.remove(force=True)

    def containers(self) -> list[docker.models.containers.Container]:
        """What the engine has of this controller, ended ones too."""
        client = docker.from_env(timeout=30)
        try:
            mine = []
            for container in client.containers.list(all=True, filters={"label": "cellyard.controller"}):
                mounts = container.attrs["HostConfig"].get("Mounts") or []
                binds = container.attrs["HostConfig"].get("Binds") or []
                sources = [mount.get("Source", "") for mount in mounts] + [bind.split(":")[0] for bind in binds]
                if any(source.startswith(str(self.folder)) for source in sources):
                    mine.append(container)
            return mine
        finally:
            client.close()


@pytest.fixture
def controller(built_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A controller of this test's own, running."""
    process = Process(tmp_path_factory.mktemp("c"))
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def shared_controller(built_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A controller for all tests of a module."""
    process = Process(tmp_path_factory.mktemp("m"))
    process.start()
    yield process
    process.close()
