"""A cell that prints, and everything around it that dies meanwhile: controllers, clients, links, whole machines.

What a cell printed is in the notebook and in the event log, without gap or double; it ran once, in the kernel that was
there before.
"""

from __future__ import annotations

import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import BinaryIO

import docker
import grpc
import pytest

import cellyard
from cellyard_proto.v1 import executions_pb2, executions_pb2_grpc
from tests.chaos.link_cut import cut_link
from tests.controller_process import Process

pytestmark = pytest.mark.docker

WITHIN = 60.0
PAUSE = 0.05

PRINTING = """
import pathlib, time
with (pathlib.Path.home() / 'runs').open('a') as runs:
    runs.write('ran\\n')
began = time.time()
for number in range({count}):
    print(number, flush=True)
    time.sleep({pause})
(began, time.time())
"""

KERNEL = """
import os, pathlib
marker = globals().get('marker') or object()
born = pathlib.Path('/proc/self/stat').read_text().rsplit(')', 1)[1].split()[19]
(os.uname().nodename, os.getpid(), born, id(marker))
"""
"""Tells which kernel process this is: a number alone would be the same in the next container."""

RUNS = "(pathlib.Path.home() / 'runs').read_text()"

CLIENT = """
import sys, cellyard
session = cellyard.Session(notebook_id='nb', endpoint=sys.argv[1])
session.run(sys.argv[2], on_output=lambda output: print('heard', flush=True))
"""


def printed(count: int) -> str:
    """What the printing cell shows."""
    return "".join(f"{number}\n" for number in range(count))


def attach(process: Process, execution_id: str) -> Iterator[executions_pb2.ExecutionEvent]:
    """The event log from its beginning, as the protocol has it, to its end."""
    with grpc.insecure_channel(process.endpoint) as channel:
        request = executions_pb2.AttachExecution(notebook_id="nb", execution_id=execution_id, after_seq=0)
        yield from executions_pb2_grpc.ExecutionsStub(channel).Attach(request, timeout=WITHIN)


def assert_complete(process: Process, session: cellyard.Session, execution_id: str, count: int) -> None:
    """Result, notebook and event log each have everything once."""
    result = session.get_execution(execution_id)
    assert (result.end, result.stdout) == ("succeeded", printed(count))
    (cell,) = [each for each in session.get_cells() if each.execution_id == execution_id]
    assert [(output.name, output.text) for output in cell.outputs[:-1]] == [("stdout", printed(count))]
    assert cell.outputs[-1].output_type == "execute_result"

    events = [event for event in attach(process, execution_id) if event.seq]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds.count("started"), kinds.count("finished"), kinds[-1]) == (1, 1, "finished")
    assert "".join(event.output.stream.text for event in events if event.output.HasField("stream")) == printed(count)


def randomness(what: str) -> random.Random:
    """Random moments that can be had again."""
    seed = random.randrange(2**32)
    print(f"seed of {what}: {seed}")
    return random.Random(seed)


def moments(chance: random.Random, number: int, last: float) -> list[float]:
    """Random seconds from 0 to `last`, one in each of as many equal parts."""
    part = last / number
    return [(each + chance.random()) * part for each in range(number)]


def sleep_until(moment: float) -> None:
    """The moment is the test's own choice: there is nothing else to wait for."""
    time.sleep(max(0.0, moment - time.time()))


class Run:
    """The printing cell, run and followed by a thread of its own."""

    def __init__(self, session: cellyard.Session, count: int) -> None:
        self.text = ""
        """What the stream gave so far."""
        self.execution_id = ""
        self._session, self._count = session, count
        self._started = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._result = self._thread.submit(self._follow)

    def wait_started(self) -> None:
        """Returns when the cell runs."""
        assert self._started.wait(WITHIN)

    def result(self) -> cellyard.ExecutionResult:
        """Returns when it has ended."""
        with self._thread:
            return self._result.result(WITHIN)

    def _follow(self) -> cellyard.ExecutionResult:
        code = PRINTING.format(count=self._count, pause=PAUSE)
        for event in self._session.stream_execute(code=code, timeout_secs=None):
            if isinstance(event, cellyard.Started):
                self.execution_id = event.execution_id
                self._started.set()
            elif isinstance(event, cellyard.OutputEvent) and event.output.name == "stdout":
                self.text += event.output.text or ""
            elif isinstance(event, cellyard.Finished):
                return event.result
        raise AssertionError("a stream of events ends with Finished")


@contextmanager
def visitors(process: Process, execution_id: str, count: int) -> Iterator[list[int]]:
    """Two clients that come and go, and never see anything but a beginning of what is printed.

    Gives their numbers of visits, right when the block is left.
    """
    over = threading.Event()
    visits = [0, 0]

    def waits() -> None:
        with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as session:
            assert printed(count).startswith(session.get_execution(execution_id).stdout)
            try:
                seen = session.wait(execution_id, 0.2)
            except cellyard.ExecutionTimeout as late:
                assert late.result is not None  # noqa: PT017 - for mypy
                seen = late.result
            assert printed(count).startswith(seen.stdout)

    def reads() -> None:
        with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as session:
            session.connect()
            (cell,) = [each for each in session.get_cells() if each.execution_id == execution_id]
            text = "".join(output.text or "" for output in cell.outputs if output.output_type == "stream")
            assert printed(count).startswith(text)

    def come_and_go(number: int, visit: Callable[[], None]) -> None:
        while not over.is_set():
            try:
                visit()
                visits[number] += 1
            except cellyard.ControllerUnavailable:
                pass  # a new client may come while no controller is there, and is told so

    with ThreadPoolExecutor(2) as threads:
        clients = [threads.submit(come_and_go, number, visit) for number, visit in enumerate((waits, reads))]
        try:
            yield visits
        finally:
            over.set()
        for client in clients:
            client.result(WITHIN)


@pytest.mark.soak  # half a minute, with the machine to itself: a controller that shares it is hardly up before it dies
def test_a_cell_goes_on_while_controllers_are_killed_and_clients_come_and_go(process: Process) -> None:
    count, kills = 560, 10  # 28 s: a start takes nearly 2 s, and what came up is to do some work before it dies
    part = count * PAUSE * 0.95 / kills
    chance = randomness("the controller's kills")
    process.start()
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    kernel = session.run(KERNEL).value
    run = Run(session, count)
    run.wait_started()
    start = time.time()
    killed: list[tuple[float, float]] = []
    shown: list[int] = []
    starts: list[BinaryIO] = []
    with visitors(process, run.execution_id, count) as visits:
        for number in range(1, kills + 1):
            until = start + number * part
            if starts:  # where one takes longer than its part, the kill falls into the start
                select.select([starts[-1]], [], [], max(0.0, until - time.time()))
            sleep_until(chance.uniform(time.time(), until))
            before = time.time()
            process.kill()
            killed.append((before, time.time()))
            shown.append(run.text.count("\n"))
            starts.append(process.launch())
        result = run.result()
    ready = 1
    for pipe in starts:
        with pipe:
            ready += pipe.read() == b"ready\n"
    began, ended = result.value
    print("killed after", [round(before - began, 2) for before, _ in killed], "of", round(ended - began, 2))
    print("numbers that the client had then:", shown)
    print(f"{ready} of {kills + 1} controllers became ready; visits: {visits}")
    assert all(began < before and after < ended for before, after in killed)
    assert all(visits)
    assert (result.end, result.stdout, run.text) == ("succeeded", printed(count), printed(count))
    assert session.run(RUNS).value == "ran\n"
    assert session.run(KERNEL).value == kernel
    assert_complete(process, session, run.execution_id, count)
    session.close()


def test_a_cell_goes_on_when_its_client_is_killed(process: Process) -> None:
    count, grace = 60, 1.0
    process.start(env={"CELLYARD_SESSIONS__GRACE": str(grace)})
    code = PRINTING.format(count=count, pause=PAUSE)
    command = [sys.executable, "-c", CLIENT, process.endpoint, code + KERNEL]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        for _ in range(10):
            assert client.stdout.readline() == b"heard\n"
        client.kill()
        killed = time.time()
    assert client.returncode == -signal.SIGKILL

    # Nobody is there: the protocol's streams are no sessions.
    with grpc.insecure_channel(process.endpoint) as channel:
        executions = executions_pb2_grpc.ExecutionsStub(channel)
        (found,) = executions.List(executions_pb2.ListExecutions(notebook_id="nb")).executions
        assert found.state == executions_pb2.EXECUTION_STATE_STARTED
    *_, last = attach(process, found.execution_id)
    assert last.finished.ended_at > killed + grace

    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as other:
        other.connect()
        assert other.kernel_started
    session.connect()
    assert session.kernel_started, "who only looked takes no kernel away"
    kernel = session.wait(found.execution_id, WITHIN).value
    assert session.run(KERNEL).value == kernel
    assert session.run(RUNS).value == "ran\n"
    assert_complete(process, session, found.execution_id, count)
    session.close()


@pytest.mark.soak
def test_a_cell_goes_on_while_its_agents_connection_is_cut(process: Process) -> None:
    count, cuts = 100, 10
    chance = randomness("the link's cuts")
    process.start()
    assert process.process is not None
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    kernel = session.run(KERNEL).value
    run = Run(session, count)
    run.wait_started()
    start = time.time()
    cut: list[tuple[float, int]] = []
    for moment in moments(chance, cuts, count * PAUSE * 0.9):
        sleep_until(start + moment)
        cut.append((time.time(), cut_link(process.process.pid, WITHIN)))
    after = time.time()
    result = run.result()
    began, ended = result.value
    assert len({inode for _, inode in cut}) == cuts, "each was another connection"
    assert began < cut[0][0] < after < ended
    assert (result.end, result.stdout, run.text) == ("succeeded", printed(count), printed(count))
    assert session.run(RUNS).value == "ran\n"
    assert session.run(KERNEL).value == kernel
    assert_complete(process, session, run.execution_id, count)
    session.close()


def everything_dies(process: Process) -> None:
    """SIGKILL for the controller and for every process of its sandboxes."""
    sandboxes = process.containers()
    process.kill()
    for sandbox in sandboxes:
        with suppress(docker.errors.APIError):  # one that was only just made has no process yet
            sandbox.kill()


def ends(process: Process, execution_id: str) -> list[tuple[str, str]]:
    """Every end that an execution's log has, with its reason."""
    found = [event.finished for event in attach(process, execution_id) if event.HasField("finished")]
    names = [executions_pb2.ExecutionEnd.Name(each.end).removeprefix("EXECUTION_END_").lower() for each in found]
    return [(name, each.end_reason) for name, each in zip(names, found, strict=True)]


def test_what_was_accepted_has_one_end_after_everything_died_at_once(process: Process) -> None:
    process.start()
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    session.start_kernel()
    code = PRINTING.format(count=10_000, pause=PAUSE)
    running = session.stream_execute(code=code, timeout_secs=None)
    started = next(event for event in running if isinstance(event, cellyard.Started))
    waiting = session.queue_cell(session.create_cell(PRINTING.format(count=1, pause=0)))
    everything_dies(process)

    process.start()
    assert ends(process, started.execution_id) == [("lost", "exit")]
    assert ends(process, waiting) == [("cancelled", "exit")]
    assert {each.execution_id for each in session.list_executions()} == {started.execution_id, waiting}
    assert not session.kernel_started
    assert session.run("import pathlib\n(pathlib.Path.home() / 'runs').exists()").value is False
    assert len(ends(process, started.execution_id)) == len(ends(process, waiting)) == 1
    session.close()


def test_what_was_accepted_and_sent_a_moment_ago_is_lost_rather_than_run_twice(process: Process) -> None:
    process.start()
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    session.start_kernel()
    cell = session.create_cell(PRINTING.format(count=10_000, pause=PAUSE))
    accepted = session.queue_cell(cell)
    everything_dies(process)

    process.start()
    assert ends(process, accepted) == [("lost", "exit")]
    assert session.run("import pathlib\n(pathlib.Path.home() / 'runs').exists()").value is False
    session.close()


def test_what_was_accepted_before_there_was_a_kernel_runs_after_everything_died(process: Process) -> None:
    process.start()
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    session.connect()
    accepted = session.queue_cell(session.create_cell(PRINTING.format(count=2, pause=0)))
    everything_dies(process)

    process.start()
    assert session.wait(accepted, WITHIN).stdout == printed(2)
    assert ends(process, accepted) == [("succeeded", "")]
    assert session.run(RUNS).value == "ran\n"
    session.close()
