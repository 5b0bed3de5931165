"""A cell that prints, and everything around it that dies meanwhile: controllers, clients, links, whole machines.

What a cell printed is in the notebook and in the event log, without gap or double; it ran once, in the kernel that was
there before.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import docker
import grpc
import pytest

import cellyard
from cellyard_proto.v1 import executions_pb2, executions_pb2_grpc
from tests.chaos.link_cut import cut_link
from tests.controller_process import Process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # ten starts take long where the machine is shared

WITHIN = 120.0
PAUSE = 0.05
LEAST = 20.0
"""Seconds that the cell prints at least while something is killed or cut."""
KILLS = 10
BETWEEN_VISITS = 0.1
LONGEST_PAUSE = 0.6
"""Seconds of work at most between the output's going on and the next kill; how long is random."""

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

PRINTING_UNTIL_TOLD = """
import itertools, pathlib, time
with (pathlib.Path.home() / 'runs').open('a') as runs:
    runs.write('ran\\n')
began = time.time()
for number in itertools.count():
    print(number, flush=True)
    time.sleep({pause})
    if time.time() >= began + {least} and (pathlib.Path.home() / 'enough').exists():
        break
(began, time.time(), number + 1)
"""
"""For `least` seconds, and then until the file is there: so that whatever happens to it falls inside the cell."""

KERNEL = """
import os, pathlib
marker = globals().get('marker') or object()
born = pathlib.Path('/proc/self/stat').read_text().rsplit(')', 1)[1].split()[19]
kernel = (os.uname().nodename, os.getpid(), born, id(marker))
kernel
"""
"""Tells which kernel process this is: a number alone would be the same in the next container."""

RUNS = "(pathlib.Path.home() / 'runs').read_text()"

STARTS = """
import sys, cellyard
session = cellyard.Session(notebook_id='nb', endpoint=sys.argv[1])
session.run(sys.argv[2], on_output=lambda output: print('heard', flush=True))
"""

FOLLOWS = """
import sys, cellyard, grpc
from cellyard_proto.v1 import executions_pb2, executions_pb2_grpc
session = cellyard.Session(notebook_id='nb', endpoint=sys.argv[1])
session.connect()
request = executions_pb2.AttachExecution(notebook_id='nb', execution_id=sys.argv[2])
for event in executions_pb2_grpc.ExecutionsStub(grpc.insecure_channel(sys.argv[1])).Attach(request):
    print('heard', flush=True)
"""


def printed(count: int) -> str:
    """What the printing cell shows."""
    return "".join(f"{number}\n" for number in range(count))


def a_beginning(text: str) -> bool:
    """Whether this is what the cell shows at some moment."""
    return text == printed(text.count("\n"))


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
    """Random moments that can be had again: CHAOS_SEED in the environment."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
    print(f"seed of {what}: CHAOS_SEED={seed}")
    return random.Random(seed)


def tell_to_stop(process: Process) -> None:
    """Makes the file that the printing cell looks for in its sandbox."""
    (sandbox,) = [each for each in process.containers() if each.exec_run("test -e /home/sandbox/runs").exit_code == 0]
    assert sandbox.exec_run("touch /home/sandbox/enough").exit_code == 0


class Run:
    """The cell that prints until it is told to stop, run and followed by a thread of its own."""

    def __init__(self, session: cellyard.Session) -> None:
        self.text = ""
        """What the stream gave so far."""
        self.execution_id = ""
        self._session = session
        self._changed = threading.Condition()
        self._thread = ThreadPoolExecutor(1)
        self._result = self._thread.submit(self._follow)

    def shown(self, more_than: int = 0) -> int:
        """Returns how many numbers the stream has given, as soon as they are more than these."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.text.count("\n") > more_than, WITHIN), self._result
            return self.text.count("\n")

    def result(self) -> cellyard.ExecutionResult:
        """Returns when it has ended."""
        with self._thread:
            return self._result.result(WITHIN)

    def _follow(self) -> cellyard.ExecutionResult:
        code = PRINTING_UNTIL_TOLD.format(pause=PAUSE, least=LEAST)
        for event in self._session.stream_execute(code=code, timeout_secs=None):
            if isinstance(event, cellyard.Started):
                self.execution_id = event.execution_id
            elif isinstance(event, cellyard.OutputEvent) and event.output.name == "stdout":
                with self._changed:
                    self.text += event.output.text or ""
                    self._changed.notify_all()
            elif isinstance(event, cellyard.Finished):
                return event.result
        raise AssertionError("a stream of events ends with Finished")


@contextmanager
def visitors(process: Process, execution_id: str) -> Iterator[list[int]]:
    """Two clients that come and go, and never see anything but a beginning of what is printed.

    Gives their numbers of visits, right when the block is left.
    """
    over = threading.Event()
    visits = [0, 0]

    def waits() -> None:
        with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as session:
            assert a_beginning(session.get_execution(execution_id).stdout)
            try:
                seen = session.wait(execution_id, 0.2)
            except cellyard.ExecutionTimeout as late:
                assert late.result is not None  # noqa: PT017 - for mypy
                seen = late.result
            assert a_beginning(seen.stdout)

    def reads() -> None:
        with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as session:
            session.connect()
            (cell,) = [each for each in session.get_cells() if each.execution_id == execution_id]
            assert a_beginning("".join(each.text or "" for each in cell.outputs if each.output_type == "stream"))

    def come_and_go(number: int, visit: Callable[[], None]) -> None:
        while not over.wait(BETWEEN_VISITS):
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


def test_a_cell_goes_on_while_controllers_are_killed_and_clients_come_and_go(process: Process) -> None:
    chance = randomness("the controller's kills")
    process.start()
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    kernel = session.run(KERNEL).value
    run = Run(session)
    shown = run.shown()
    kills: list[tuple[float, float]] = []
    gaps: list[float] = []
    with visitors(process, run.execution_id) as visits:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0, LONGEST_PAUSE))
            before = time.time()
            process.kill()
            kills.append((before, time.time()))
            shown = run.shown()
            process.start()
            ready = time.time()
            shown = run.shown(shown)
            gaps.append(time.time() - ready)
        tell_to_stop(process)
        result = run.result()
    began, ended, count = result.value
    print("killed after", [round(before - began, 2) for before, _ in kills], "of", round(ended - began, 2))
    print("the client's stream went on this long after a controller was ready:", [round(gap, 2) for gap in gaps])
    print("visits:", visits)
    assert all(began < before and after < ended for before, after in kills)
    assert ended - began >= LEAST
    assert statistics.median(gaps) < 1.0
    assert all(visits)
    assert (result.end, result.stdout, run.text) == ("succeeded", printed(count), printed(count))
    assert session.run(RUNS).value == "ran\n"
    assert session.run(KERNEL).value == kernel
    assert_complete(process, session, run.execution_id, count)
    session.close()


def kill_client(process: Process, script: str, what: str, pause: float) -> tuple[float, float]:
    """Starts a client, and kills it some seconds after it heard from the cell; returns between which times."""
    with subprocess.Popen([sys.executable, "-c", script, process.endpoint, what], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"heard\n"
        time.sleep(pause)
        before = time.time()
        client.kill()
    assert client.returncode == -signal.SIGKILL, "it was there until then"
    return before, time.time()


def test_a_cell_goes_on_while_its_clients_are_killed(process: Process) -> None:
    """The one that started it first, then others that follow it."""
    chance = randomness("the clients' kills")
    grace = 1.0
    process.start(env={"CELLYARD_SESSIONS__GRACE": str(grace)})
    code = PRINTING_UNTIL_TOLD.format(pause=PAUSE, least=LEAST).rstrip()
    kills = [kill_client(process, STARTS, KERNEL + code + " + (kernel,)", chance.uniform(0, LONGEST_PAUSE))]
    with grpc.insecure_channel(process.endpoint) as channel:  # which is no session
        executions = executions_pb2_grpc.ExecutionsStub(channel)
        (found,) = executions.List(executions_pb2.ListExecutions(notebook_id="nb")).executions
    pauses = [chance.uniform(0, 3 * LONGEST_PAUSE) for _ in range(KILLS - 1)]
    kills += [kill_client(process, FOLLOWS, found.execution_id, pause) for pause in pauses]
    time.sleep(2 * grace)  # nobody is there for longer than a session that vanished is waited for
    tell_to_stop(process)
    *_, last = attach(process, found.execution_id)
    assert last.finished.ended_at > kills[-1][1] + grace

    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    with cellyard.Session(notebook_id="nb", endpoint=process.endpoint) as other:
        other.connect()
        assert other.kernel_started
    session.connect()
    assert session.kernel_started, "who only looked takes no kernel away"
    began, ended, count, kernel = session.wait(found.execution_id, WITHIN).value
    print("killed after", [round(before - began, 2) for before, _ in kills], "of", round(ended - began, 2))
    assert all(began < before and after < ended for before, after in kills)
    assert ended - began >= LEAST
    assert session.run(KERNEL).value == kernel
    assert session.run(RUNS).value == "ran\n"
    assert_complete(process, session, found.execution_id, count)
    session.close()


def test_a_cell_goes_on_while_its_agents_connection_is_cut(process: Process) -> None:
    chance = randomness("the link's cuts")
    process.start()
    assert process.process is not None
    session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
    kernel = session.run(KERNEL).value
    run = Run(session)
    run.shown()
    cuts: list[tuple[float, int]] = []
    gaps: list[float] = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 3 * LONGEST_PAUSE))
        cuts.append((time.time(), cut_link(process.process.pid, WITHIN)))
        run.shown(run.shown())
        gaps.append(time.time() - cuts[-1][0])
    after = time.time()
    tell_to_stop(process)
    result = run.result()
    began, ended, count = result.value
    print("cut after", [round(at - began, 2) for at, _ in cuts], "of", round(ended - began, 2))
    print("the client's stream went on this long after a cut:", [round(gap, 2) for gap in gaps])
    assert len({inode for _, inode in cuts}) == KILLS, "each was another connection"
    assert began < cuts[0][0] < after < ended
    assert ended - began >= LEAST
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
