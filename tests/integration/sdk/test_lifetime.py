"""What is left of a session that is dropped, outlives its loop, its process, or a fork: nothing, silently."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from tests.integration.sdk.faultline import Faultline
from tests.integration.sdk.scripted_controller import ScriptedController

import cellyard


def run_script(source: str, endpoint: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own, where every warning is an error that would be seen."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source)],
        env={**os.environ, "CELLYARD_ENDPOINT": endpoint, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "source",
    [
        """
        import cellyard
        session = cellyard.Session("kept")
        print(session.run("1").value)
        """,
        """
        import asyncio, cellyard
        async def main():
            session = cellyard.AsyncSession("kept")
            print((await session.run("1")).value)
        asyncio.run(main())
        """,
        """
        import asyncio, cellyard
        session = cellyard.AsyncSession("kept")
        async def main():
            print((await session.run("1")).value)
        asyncio.run(main())
        """,
        """
        import asyncio, cellyard
        session = cellyard.AsyncSession("kept")
        async def main():
            async for event in session.stream_execute(code="print('x')\\ngate('never')"):
                if isinstance(event, cellyard.OutputEvent):
                    print(1)
                    break
        asyncio.run(main())
        """,
        """
        import cellyard
        session = cellyard.Session("kept")
        events = session.stream_execute(code="print('x')\\ngate('never')")
        print(next(1 for event in events if isinstance(event, cellyard.OutputEvent)))
        """,
        """
        import sys, cellyard
        session = cellyard.Session("kept")
        print(session.run("1").value)
        sys.exit(0)
        """,
    ],
)
def test_a_process_ends_silently_with_a_session_open(
    endpoint: str, controller: ScriptedController, source: str
) -> None:
    done = run_script(source, endpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    controller.until(lambda: not controller.sessions)
    assert controller.closed_sessions == []
    assert controller.notebook("kept").kernel is not None


def _settled(condition: object) -> bool:
    """gRPC closes sockets in threads of its own, without telling when."""
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_a_dropped_session_leaves_no_socket_and_no_thread(
    endpoint: str, line: Faultline, controller: ScriptedController
) -> None:
    threads = set(threading.enumerate())
    session = cellyard.Session(endpoint=endpoint)
    session.run("1")
    assert line.connections == 1
    del session
    assert _settled(lambda: line.connections == 0)
    own = [thread for thread in set(threading.enumerate()) - threads if "ThreadPool" not in thread.name]
    assert _settled(lambda: not any(thread.is_alive() for thread in own if "_work" not in thread.name))
    controller.until(lambda: not controller.sessions)
    assert controller.closed_sessions == []


async def test_a_dropped_async_session_leaves_no_socket(endpoint: str, line: Faultline) -> None:
    session = cellyard.AsyncSession(endpoint=endpoint)
    await session.run("1")
    assert line.connections == 1
    del session
    gc.collect()
    assert await asyncio.to_thread(_settled, lambda: line.connections == 0)


@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_a_closed_session_leaves_no_socket(endpoint: str, line: Faultline, flavour: str) -> None:
    async def main() -> None:
        async with cellyard.AsyncSession(endpoint=endpoint) as session:
            await session.run("1")

    if flavour == "async":
        asyncio.run(main())
    else:
        with cellyard.Session(endpoint=endpoint) as session:
            session.run("1")
    assert _settled(lambda: line.connections == 0)


def test_one_async_session_in_several_event_loops(endpoint: str) -> None:
    source = """
        import asyncio, cellyard
        session = cellyard.AsyncSession()
        for number in range(3):
            print(asyncio.run(session.run(str(number))).value)
        asyncio.run(session.close())
        """
    done = run_script(source, endpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n1\n2\n", "")


CHILD = """
import os, signal, sys
def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        work()
        sys.stdout.flush()
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    print("child ended", os.waitstatus_to_exitcode(status))
"""

SYNC_FORK = """
import gc
session = cellyard.Session()
session.run("1")
def work():
    global session
    for one in (session, cellyard.Session()):
        try:
            print(one.run("2").value)
        except cellyard.ControllerUnavailable as error:
            print("forked" in str(error))
    print(session.is_connected)
    session.close()
    session = None
    gc.collect()
in_child(work)
print(session.run("3").value)
"""

ASYNC_FORK = """
import asyncio, gc
session = cellyard.AsyncSession()
async def main():
    await session.run("1")
    in_child(work)
    print((await session.run("3")).value)
def work():
    async def use():
        try:
            print((await session.run("2")).value)
        except cellyard.ControllerUnavailable as error:
            print("forked" in str(error))
    loop = asyncio.new_event_loop()
    asyncio.events._set_running_loop(None)
    loop.run_until_complete(use())
    loop.close()
    os._exit(0)
asyncio.run(main())
"""


@pytest.mark.parametrize("support", ["", "0"])
def test_a_fork_gets_a_clear_error_and_no_hang(endpoint: str, controller: ScriptedController, support: str) -> None:
    environ = {"GRPC_ENABLE_FORK_SUPPORT": support} if support else {}
    done = run_script("import cellyard" + CHILD + SYNC_FORK, endpoint, **environ)
    assert done.stdout == "True\nTrue\nFalse\nchild ended 0\n3\n", done.stderr


def test_a_fork_with_grpcs_own_support_gets_a_fresh_channel(endpoint: str) -> None:
    done = run_script("import cellyard" + CHILD + SYNC_FORK, endpoint, GRPC_ENABLE_FORK_SUPPORT="1")
    assert done.stdout == "2\n2\nTrue\nchild ended 0\n3\n", done.stderr


def test_a_fork_below_an_event_loop_gets_a_clear_error(endpoint: str) -> None:
    done = run_script("import cellyard" + CHILD + ASYNC_FORK, endpoint)
    assert done.stdout == "True\nchild ended 0\n3\n", done.stderr


def test_a_session_works_in_many_threads(endpoint: str) -> None:
    values: list[int] = []
    with cellyard.Session(endpoint=endpoint) as session:
        threads = [threading.Thread(target=lambda n=n: values.append(session.run(f"{n}").value)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(values) == list(range(10))


def test_importing_brings_nothing_heavy(tmp_path: Path) -> None:
    source = (
        "import sys, cellyard; print(sorted({'grpc', 'docker', 'sqlalchemy', 'zmq', 'IPython'} & set(sys.modules)))"
    )
    assert run_script(source, f"unix:{tmp_path}/x").stdout == "[]\n"
    source = "import cellyard; cellyard.Session; " + source.replace("import sys, cellyard", "import sys")
    assert run_script(source, f"unix:{tmp_path}/x").stdout == "['grpc']\n"
