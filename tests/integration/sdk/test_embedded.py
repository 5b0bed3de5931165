"""The user's own controller: started where none runs, once, and explained where it cannot be.

The controller that is started here is the scripted one, under the real one's name.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

STAND_IN = """
import argparse, os, signal, sys, threading
if os.environ.get("STAND_IN_FAILS"):
    print("starting")
    sys.exit("the data folder is in use by another controller")
arguments = argparse.ArgumentParser()
arguments.add_argument("command")
for option in ("--listen", "--data", "--runtime", "--linger", "--ready-fd"):
    arguments.add_argument(option)
given = arguments.parse_args()
from tests.integration.sdk.scripted_controller import ScriptedController
with open(given.data + "/started", "a") as started:
    started.write(f"{os.getpid()} {' '.join(sys.argv[1:])}\\n")
if os.environ.get("STAND_IN_HANGS"):
    threading.Event().wait()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
controller = ScriptedController()
controller.start(given.listen)
os.write(int(given.ready_fd), b"ready\\n")
os.close(int(given.ready_fd))
signal.sigwait({signal.SIGTERM})
os._exit(0)
"""


class Home:
    """A user's folders, with a controller to start in reach."""

    def __init__(self, folder: Path) -> None:
        package = folder / "packages" / "cellyard_controller"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(STAND_IN)
        self.state = folder / "state" / "cellyard"
        self.socket = folder / "run" / "cellyard" / "controller.sock"
        (folder / "run").mkdir(mode=0o700)
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CELLYARD_", "RUNTIMED_"))},
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PYTHONPATH": f"{package.parent}:{ROOT}",
        }

    def run(self, source: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs a script as this user."""
        with self.popen(source, **environ) as process:
            out, err = process.communicate(timeout=60)
            return subprocess.CompletedProcess([], process.returncode, out, err)

    def popen(self, source: str, **environ: str) -> subprocess.Popen[str]:
        """Starts a script as this user."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(source)],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def started(self) -> list[tuple[int, str]]:
        """Pid and arguments of every controller that was started."""
        path = self.state / "started"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), arguments) for pid, _, arguments in (line.partition(" ") for line in lines)]


@pytest.fixture
def home() -> Iterator[Home]:
    folder = Path(tempfile.mkdtemp(prefix="cy-"))
    made = Home(folder)
    yield made
    for pid, _ in made.started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    shutil.rmtree(folder)


RUN = "import cellyard\nwith cellyard.Session() as session: print(session.run('1 + 1').value)"
ASYNC_RUN = """
import asyncio, cellyard
async def main():
    async with cellyard.AsyncSession() as session:
        print((await session.run("1 + 1")).value)
asyncio.run(main())
"""
REFUSED = """
import cellyard
try:
    cellyard.Session().connect()
except cellyard.CellyardError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("source", [RUN, ASYNC_RUN])
def test_a_session_with_nothing_running_starts_a_controller(home: Home, source: str) -> None:
    done = home.run(source)
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)
    ((pid, arguments),) = home.started
    assert arguments.startswith(
        f"serve --listen unix:{home.socket} --data {home.state} --runtime docker,process --linger 900 --ready-fd "
    )
    for folder in (home.socket.parent, home.state):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.getsid(pid) == pid, "it has a terminal session of its own"
    assert home.run(source).stdout == "2\n"
    assert len(home.started) == 1, "the second one found it"


def test_ten_at_once_start_one(home: Home) -> None:
    processes = [home.popen(RUN if number % 2 else ASYNC_RUN) for number in range(10)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (out, err) == ("2\n", "")
    assert len(home.started) == 1


def test_a_start_that_fails_quotes_the_log(home: Home) -> None:
    done = home.run(REFUSED, STAND_IN_FAILS="1")
    assert "ControllerUnavailable the controller did not start, it ended:" in done.stdout
    assert "the data folder is in use by another controller" in done.stdout
    assert str(home.state / "controller.log") in done.stdout


def test_a_start_that_hangs_has_a_deadline(home: Home) -> None:
    source = "from cellyard import embedded, endpoint, errors\ntry: embedded.ensure(endpoint.resolve(), 1.5)\n"
    done = home.run(source + "except errors.ControllerUnavailable as error: print(error)", STAND_IN_HANGS="1")
    assert "was not ready within 1.5 s" in done.stdout
    ((pid, _),) = home.started
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "it was left behind"
        time.sleep(0.01)


def test_a_missing_extra_is_named_with_the_remedy(home: Home) -> None:
    source = """
    import importlib.util
    real = importlib.util.find_spec
    importlib.util.find_spec = lambda name: None if name == "sqlalchemy" else real(name)
    """
    done = home.run(textwrap.dedent(source) + REFUSED)
    assert "sqlalchemy is not installed" in done.stdout
    assert 'pip install "cellyard[controller]"' in done.stdout
    assert home.started == []


def test_a_folder_that_others_can_enter_is_refused(home: Home) -> None:
    home.socket.parent.mkdir(mode=0o755)
    home.socket.parent.chmod(0o755)
    assert "PermissionDenied" in home.run(REFUSED).stdout
    assert home.started == []


def test_a_session_outlives_its_controller(home: Home) -> None:
    source = """
    import os, signal, cellyard
    session = cellyard.Session()
    print(session.run("1").value)
    with open(os.environ["XDG_STATE_HOME"] + "/cellyard/started") as started:
        pid = int(started.read().split()[0])
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    import select; select.select([handle], [], [])
    session._transport._met = None  # the scripted one forgets who it is
    print(session.run("2").value)
    """
    done = home.run(source)
    assert (done.stdout, done.stderr) == ("1\n2\n", "")
    assert len(home.started) == 2


def test_a_named_endpoint_gets_no_controller_started(home: Home) -> None:
    done = home.run(REFUSED, CELLYARD_ENDPOINT=f"unix:{home.socket}")
    assert "nobody listens there" in done.stdout
    assert home.started == []


def _alive(pid: int) -> bool:
    """Whether it runs; one that has ended may wait for somebody to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
