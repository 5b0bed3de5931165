"""Where attacks are tried: a cell of a real sandbox, a careless container, and a neighbour that must not notice."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process

MIB = 1024 * 1024
RIGHTS = ("SYS_ADMIN", "SYS_PTRACE", "SYS_TIME", "SYSLOG", "SYS_NICE", "NET_ADMIN", "DAC_READ_SEARCH")
CARELESS = (
    *(f"--cap-add={name}" for name in RIGHTS),
    "--device=/dev/kmsg",
    "--security-opt=seccomp=unconfined",
    "--security-opt=systempaths=unconfined",
    "--user=0",
    "--pid=host",
    "--volume=/var/run/docker.sock:/var/run/docker.sock",
)
"""How a container is started that trusts what runs in it."""

Careless = Callable[[str], str]


@pytest.fixture(scope="module")
def yard(built_image: str, module_folder: Path) -> Iterator[Process]:
    """A controller for the attacks of one module."""
    process = Process(module_folder)
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="session")
def careless(built_image: str) -> Careless:
    """What a snippet prints in a container that stops nothing."""

    def run(snippet: str) -> str:
        command = ["docker", "run", "--rm", *CARELESS, built_image, "python3", "-c", snippet]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout

    return run


@contextmanager
def neighbour(yard: Process) -> Iterator[list[float]]:
    """Another notebook that runs `1+1` all the time meanwhile; at the end its seconds are in the list."""
    times: list[float] = []
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set() or len(times) < 60:
                started = time.perf_counter()
                assert session.run("1+1").value == 2
                times.append(time.perf_counter() - started)
        except BaseException as error:  # told by the test's own thread
            failed.append(error)

    with cellyard.Session(endpoint=yard.endpoint) as session:
        assert session.run("1+1").value == 2
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield times
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]


def p95(times: list[float]) -> float:
    """Of some durations."""
    return sorted(times)[int(len(times) * 0.95)]


@contextmanager
def unharmed(yard: Process) -> Iterator[None]:
    """What is done meanwhile costs another notebook's cells less than a second, and the controller little memory."""
    before = resident(yard)
    with neighbour(yard) as times:
        yield
    assert p95(times) < 1.0
    assert resident(yard) - before < 100 * MIB


def resident(yard: Process) -> int:
    """Bytes of the controller."""
    assert yard.process is not None
    return int(Path(f"/proc/{yard.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
