"""Controllers as plain processes on machines of the tests' own, reached by the machines' addresses with a token."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cellyard
from tests.cluster.machines import ENGINE, Machine, only_child

PROGRAM = str(Path(sys.executable).with_name("cellyard"))
PORT = 7070
_PAUSE_S = 1.0
_STOPPED_WITHIN_S = 60.0
_PROVEN_WITHIN_S = 240.0
_ISOLATION = {"container_isolation", "network_isolation"}


def until_proven(client: cellyard.Client) -> None:
    """Waits until the controller has proven that its sandboxes are isolated.

    A probe has 20 s, and what it did not show in time is looked at anew whenever somebody asks.
    """
    give_up = time.monotonic() + _PROVEN_WITHIN_S
    while missing := [each for each in client.capabilities() if each.name in _ISOLATION and not each.granted]:
        assert time.monotonic() < give_up, missing
        time.sleep(_PAUSE_S)


class NodeController:
    """The controller of a machine, on the machine's engine and with a data folder of the machine's own."""

    data = "/var/lib/cellyard"
    """As the machine has it; `machine.path` says where it is seen from outside."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.endpoint = f"{machine.address}:{PORT}"
        """Where it is reached from every machine, without TLS."""
        self.log = machine.folder / "controller.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, env: dict[str, str] | None = None) -> None:
        """Starts it and waits until it is ready. `env`: settings, over those of the tests' process."""
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "cellyard_controller", "serve", "--data", self.data, "--ready-fd", str(writer)]
        command += ["--listen", self.endpoint, "--insecure-listen", *flags]
        settings = {"DOCKER_HOST": f"unix://{ENGINE}", "CELLYARD_POOL__SIZE": "0", **(env or {})}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.machine.inside(command),
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                env={**os.environ, **settings},
            )
        os.close(writer)
        with os.fdopen(reader, "rb") as ready:
            # A line, not all: what has entered the machine keeps its end open.
            assert ready.readline() == b"ready\n", self.log.read_text()

    @property
    def pid(self) -> int:
        """Of the process itself, as the tests' machine numbers it."""
        assert self._process is not None
        return only_child(self._process.pid)

    def token(self, tenant: str, *options: str) -> str:
        """Makes a tenant, and gives its token. `options` are those of `cellyard tenants create`."""
        return self.machine.run(PROGRAM, "tenants", "create", tenant, "--data", self.data, *options).split()[-1]

    def pause(self) -> None:
        """It stands still: its connections stay open and it does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        for pid in (self.pid, self._process.pid):  # what entered the machine has stopped with it
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait(_STOPPED_WITHIN_S)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGTERM)
        return self._process.wait(_STOPPED_WITHIN_S)

    def close(self) -> None:
        """Ends it, whatever it does. What is on its engine ends with the machine."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
