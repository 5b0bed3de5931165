"""A container engine of a test's own, beside the machine's, which may be stopped and started again. Needs root."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import docker

_WITHIN = 60.0
_PAUSE = 0.1


class OwnEngine:
    """A dockerd on folders of its own and in a network namespace of its own: nothing of it meets another engine's.

    The namespace is needed: a dockerd that is told to have no bridge removes the interface `docker0`, whosever that is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/d.sock"
        self._log = folder / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, live_restore: bool) -> None:
        """Starts it and waits until it answers."""
        command = ["unshare", "--net", "dockerd", "-H", self.address]
        command += ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
        command += ["--config-file", str(self.folder / "none.json"), f"--live-restore={str(live_restore).lower()}"]
        for option, name in (("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")):
            command += [option, str(self.folder / name)]
        (self.folder / "none.json").write_text("{}")
        bridge = Path("/sys/class/net/docker0")
        had_bridge = bridge.exists()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up = time.monotonic() + _WITHIN
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < give_up, self._log.read_text()[-4000:]
            time.sleep(_PAUSE)
        assert bridge.exists() or not had_bridge, "another engine's bridge is not ours to remove"

    def load(self, image: str) -> None:
        """Takes an image over from the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "-H", self.address, "load", "-q"], stdin=saved.stdout, check=True)
        assert saved.returncode == 0

    def stop(self) -> None:
        """Stops it as a service manager does."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_WITHIN)

    def kill(self) -> None:
        """SIGKILL, as a crash: it ends none of its containers."""
        assert self._process is not None
        pid_file = self.folder / "exec" / "containerd" / "containerd.pid"
        containerd = os.pidfd_open(int(pid_file.read_text()))
        try:
            self._process.kill()
            self._process.wait(_WITHIN)
            died, _, _ = select.select([containerd], [], [], _WITHIN)  # the kernel ends it with its parent
            assert died
        finally:
            os.close(containerd)
        # Until somebody has reaped it, which may take a while, the next engine would take it for alive.
        pid_file.unlink()

    def close(self) -> None:
        """Ends it and all that it has."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self.start(live_restore=False)
        with closing(docker.DockerClient(base_url=self.address, timeout=30)) as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True)
        self.stop()
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in reversed([each for each in mounted if each.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "-l", path], check=True)  # what restoring containers has left
        shutil.rmtree(self.folder / "data")

    def _answers(self) -> bool:
        # docker-py leaves a socket open where nobody listens yet.
        asked = subprocess.run(["docker", "-H", self.address, "version"], capture_output=True, check=False)
        return asked.returncode == 0
