"""Controllers as processes that share one PostgreSQL database, each a node of its own with a data folder of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet
from tests.controller_process import Process

import cellyard

LEASE_S = 3.0
"""The shortest that is allowed."""


class Nodes:
    """Some of them, on one machine."""

    def __init__(self, folder: Path, database: str, *, runtime: str = "process", **env: str) -> None:
        """`env`: of all controllers, beside what makes them nodes of one database."""
        self._folder, self._runtime, self._processes = folder, runtime, dict[str, Process]()
        key = folder / "key"
        key.write_bytes(Fernet.generate_key())
        key.chmod(0o600)
        (folder / "blobs").mkdir()
        self.env = {
            "CELLYARD_STORE__URL": database,
            "CELLYARD_STORE__KEY_FILE": str(key),
            "CELLYARD_STORE__BLOBS_FOLDER": str(folder / "blobs"),
            "CELLYARD_NODE__LEASE": str(LEASE_S),
            **env,
        }

    def start(self, name: str, *flags: str, env: Mapping[str, str] | None = None) -> Process:
        """Starts one, or starts it again, and waits until it is ready."""
        process = self.process(name)
        process.start("--runtime", self._runtime, *flags, env=self._env(name, env))
        return process

    def refused(self, name: str, folder: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Starts one that must not come up, on this data folder: its exit code and what it says."""
        process = Process(self._made(folder))
        with process.launch("--runtime", self._runtime, env=self._env(name, env)) as ready:
            said = ready.read()
        assert process.process is not None
        code = process.process.wait(60)
        assert said == b"", "it came up"
        return code, process.log.read_text()

    def process(self, name: str) -> Process:
        """The process of a node."""
        if name not in self._processes:
            self._processes[name] = Process(self._made(name))
        return self._processes[name]

    def client(self, name: str) -> cellyard.Client:
        """The operator's, at one node."""
        return cellyard.Client(self.process(name).endpoint)

    def session(self, notebook: str, at: str) -> cellyard.Session:
        """A session that asks one node first."""
        return cellyard.Session(notebook, endpoint=self.process(at).endpoint)

    def where(self, notebook: str, at: str) -> str | None:
        """The node where a notebook's sandbox is, as one node says."""
        with self.client(at) as client:
            found = [each.node for each in client.list_sandboxes() if each.notebook_id == notebook]
        return found[0] if found else None

    def on(self, node: str, at: str) -> tuple[str, cellyard.Session]:
        """A notebook with a kernel on this node, found by trying: where it goes is the nodes' own decision."""
        for number in range(40):
            name = f"on-{node}-{number}-{os.urandom(3).hex()}"
            session = self.session(name, at)
            session.run("1")
            if self.where(name, at) == node:
                return name, session
            session.close()
        raise AssertionError(f"no notebook was placed on {node}")

    def pause(self, name: str) -> None:
        """A node's controller stands still."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """It goes on."""
        self._signal(name, signal.SIGCONT)

    def close(self) -> None:
        """Ends all of them."""
        for process in self._processes.values():
            running = process.process
            if running is not None and running.poll() is None:
                running.send_signal(signal.SIGCONT)
                running.terminate()
        for process in self._processes.values():
            if process.process is not None:
                process.process.wait(60)
            if self._runtime == "docker":
                process.close()

    def _signal(self, name: str, number: int) -> None:
        process = self.process(name).process
        assert process is not None
        process.send_signal(number)

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _env(self, name: str, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**self.env, "CELLYARD_NODE__NAME": name, **(env or {})}
