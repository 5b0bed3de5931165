"""Code that does not want to end, or ends what it should not: its notebook goes on, within the limits it was given."""

from __future__ import annotations

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import Careless, unharmed

pytestmark = pytest.mark.docker

DEAF = """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
print('deaf', flush=True)
while True:
    try: time.sleep(1)
    except BaseException: pass
"""
CALL_IT = """
import signal, subprocess, sys
process = subprocess.Popen([sys.executable, '-c', CODE], stdout=subprocess.PIPE)
process.stdout.readline()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    process.send_signal(number)
try: print(process.wait(2))
except subprocess.TimeoutExpired: print('runs')
process.kill()
"""
ENDINGS = {
    "itself": "import os\nos._exit(7)",
    "itself from a thread": (
        "import os, threading\nthreading.Thread(target=os._exit, args=(7,)).start()\nthreading.Event().wait()"
    ),
    "itself from a signal's handler": (
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(7))\n"
        "os.kill(os.getpid(), signal.SIGALRM)\nsignal.pause()"
    ),
    "itself from a finalizer": "import os\nclass Last:\n    def __del__(self): os._exit(7)\nlast = Last()\ndel last",
}
FORK = """
import os
child = os.fork()
if child == 0: os._exit(7)
os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
SLEEP_AT_EXIT = "import atexit, time\natexit.register(time.sleep, 1_000_000)\n"
AT_EXIT = {
    "with another exit code": "import atexit, os\natexit.register(os._exit, 7)\n",
    "after a long sleep": SLEEP_AT_EXIT,
    "after a thread that stays": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1_000_000,)).start()\n"
    ),
}
LEAVE = """
import subprocess, sys
process = subprocess.Popen([sys.executable, '-c', CODE + 'print(flush=True)'], stdout=subprocess.PIPE)
process.stdout.readline()
try: print(process.wait(2))
except subprocess.TimeoutExpired: print('stays')
process.kill()
"""
NEVER_DONE = "import os\nget_ipython().kernel.connection.send = lambda *frames: None\nos.write(1, b'the code is over')"
DONE_TOO_EARLY = """
from cellyard_sandbox.python_kernel.connection import frame
kernel, task = get_ipython().kernel, get_ipython().kernel.get_parent()['msg_id']
kernel.connection.send(
    frame('execute_reply', task, {'status': 'ok', 'execution_count': 1}),
    frame('status', task, {'execution_state': 'idle'}),
)
"""
BLOCKED_AFTERWARDS = "import asyncio, time\nasyncio.get_event_loop().call_soon(time.sleep, 1_000_000)\nNone"


def test_a_cell_that_ignores_every_signal_ends_at_its_timeout(yard: Process, careless: Careless) -> None:
    assert careless(CALL_IT.replace("CODE", repr(DEAF))) == "runs\n"
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        session.run("x = 1")
        with pytest.raises(cellyard.ExecutionTimeout) as timed_out:
            session.run(DEAF, timeout_secs=1)
        assert timed_out.value.result is not None
        assert timed_out.value.result.end_reason == "kernel_restarted"
        assert "the kernel was restarted" in timed_out.value.result.text
        assert session.run("'x' in globals()").value is False


@pytest.mark.parametrize("what", ENDINGS)
def test_a_kernel_that_ends_itself_is_told_and_replaced(yard: Process, careless: Careless, what: str) -> None:
    ended = f"import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {ENDINGS[what]!r}]).returncode)"
    assert careless(ended) == "7\n"
    with cellyard.Session(endpoint=yard.endpoint) as session:
        gone = session.run(ENDINGS[what])
        assert gone.end is cellyard.End.LOST
        assert "exit code 7" in gone.error.evalue
        assert session.run("1 + 1").value == 2


def test_a_child_that_ends_itself_ends_alone(yard: Process) -> None:
    with cellyard.Session(endpoint=yard.endpoint) as session:
        assert session.run(FORK).value == 7
        assert session.run("child > 0").value is True


@pytest.mark.parametrize("how", AT_EXIT)
def test_a_kernel_that_will_not_leave_is_made_to(yard: Process, careless: Careless, how: str) -> None:
    assert careless(LEAVE.replace("CODE", repr(AT_EXIT[how]))) == ("7\n" if "code" in how else "stays\n")
    with cellyard.Session(endpoint=yard.endpoint) as session:
        session.run(AT_EXIT[how] + "x = 1")
        session.restart_kernel()
        assert session.run("'x' in globals()").value is False
        session.run(AT_EXIT[how] + "x = 1")
        session.shutdown_kernel()
        assert session.run("'x' in globals()").value is False


def test_a_kernel_that_never_goes_idle_ends_at_its_timeout(yard: Process) -> None:
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        session.run("x = 1")
        with pytest.raises(cellyard.ExecutionTimeout) as timed_out:
            session.run(NEVER_DONE, timeout_secs=1)
        assert timed_out.value.result is not None
        assert "the code is over" in timed_out.value.result.text
        assert timed_out.value.result.end_reason == "kernel_restarted"
        assert session.run("'x' in globals()").value is False


def test_a_kernel_that_never_goes_idle_ends_with_its_life(yard: Process) -> None:
    with cellyard.Session(endpoint=yard.endpoint, ttl=8) as session, unharmed(yard):
        lost = session.run(NEVER_DONE, timeout_secs=None)
        assert (lost.end, lost.end_reason) == ("lost", "ttl")


@pytest.mark.parametrize(
    "code",
    [DONE_TOO_EARLY + DEAF, BLOCKED_AFTERWARDS, SLEEP_AT_EXIT + "exit()"],
    ids=["says that it is done and is not", "blocks its event loop", "hangs while it exits"],
)
def test_a_kernel_that_takes_up_no_more_cells_is_restarted_when_one_was_to_start(yard: Process, code: str) -> None:
    with (
        cellyard.Session(endpoint=yard.endpoint) as session,
        cellyard.Session(session.notebook_id, endpoint=yard.endpoint, start_timeout=2) as hurried,
        unharmed(yard),
    ):
        session.run("x = 1")
        assert session.run(code).success
        with pytest.raises(cellyard.ExecutionTimeout, match="did not start within its start_timeout of 2 s"):
            hurried.run("y = 1")
        assert session.run("{'x', 'y'} & set(globals())").value == set()
