"""Each row of "what a crash leaves" (docs/how-it-works.md): the controller dies at exactly that point, and comes back.

Every cell counts its own runs in the sandbox, so that a second run cannot hide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

COUNT = "runs = globals().get('runs', 0) + 1\nprint('run', runs, flush=True)\nruns"
WITHIN = 60.0


@pytest.fixture
def crash(process: Process) -> Callable[[str], cellyard.Session]:
    """Starts a controller with a kernel, then one that dies at a point; gives a session on it."""

    def arm(point: str) -> cellyard.Session:
        process.start("--on-stop", "keep")
        session = cellyard.Session(notebook_id="nb", endpoint=process.endpoint)
        session.run("marker = 17")
        assert process.stop() == 0
        process.start(env={"CELLYARD_FAULT": point})
        return session

    return arm


def revive(process: Process) -> threading.Thread:
    """Starts the controller again as soon as it has died."""

    def wait_and_start() -> None:
        assert process.process is not None
        assert process.process.wait(WITHIN) == -9, "it was to die"
        process.start()

    thread = threading.Thread(target=wait_and_start)
    thread.start()
    return thread


def only_run_once(session: cellyard.Session) -> None:
    """The cell ran once, in the kernel that was there before, and its output is complete."""
    assert session.run("runs, marker").value == (1, 17)
    counted = [result for result in session.list_executions() if result.source == COUNT]
    assert len(counted) == 1
    stored = session.get_execution(counted[0].execution_id)
    assert (stored.end, stored.stdout, stored.value) == ("succeeded", "run 1\n", 1)


@pytest.mark.parametrize(
    "point",
    ["accept-decided", "accept-committed", "sent", "start-reported", "end-reported", "reports-committed"],
)
def test_a_run_survives_the_controllers_death(
    process: Process, crash: Callable[[str], cellyard.Session], point: str
) -> None:
    """Whether before the accept, before or while it is sent, while it runs or at its end: it runs once."""
    session = crash(point)
    thread = revive(process)
    result = session.run(COUNT)
    thread.join()
    assert (result.end, result.stdout, result.value) == ("succeeded", "run 1\n", 1)
    only_run_once(session)
    session.close()


def test_a_large_output_survives_a_death_between_its_file_and_its_commit(
    process: Process, crash: Callable[[str], cellyard.Session]
) -> None:
    """The file is there and nothing refers to it yet: it is taken up by the next commit, and not collected before."""
    session = crash("blobs-written")
    thread = revive(process)
    result = session.run("from IPython.display import HTML\nHTML('x' * 1_000_000)")
    thread.join()
    assert (result.end, result.outputs[0].data["text/html"]) == ("succeeded", "x" * 1_000_000)
    assert session.run("marker").value == 17
    session.close()


def test_an_interrupt_that_was_decided_is_delivered_after_the_restart(
    process: Process, crash: Callable[[str], cellyard.Session]
) -> None:
    session = crash("interrupt-committed")
    started = threading.Event()
    results: list[cellyard.ExecutionResult] = []

    def run() -> None:
        results.append(
            session.run("print('on', flush=True)\nwhile True: pass", None, on_output=lambda _: started.set())
        )

    runner = threading.Thread(target=run)
    runner.start()
    assert started.wait(WITHIN)
    thread = revive(process)
    session.interrupt()
    runner.join(WITHIN)
    thread.join()
    assert [result.end for result in results] == ["interrupted"]
    assert session.run("marker").value == 17
    session.close()


def test_a_timeout_is_kept_while_nobody_is_there(process: Process, crash: Callable[[str], cellyard.Session]) -> None:
    """The agent keeps time too: the cell is interrupted although the controller is away."""
    session = crash("start-reported")
    thread = revive(process)
    with pytest.raises(cellyard.ExecutionTimeout):
        session.run("while True: pass", 1.0)
    thread.join()
    assert session.run("marker").value == 17
    session.close()


def test_a_kernel_that_died_meanwhile_loses_the_cell_and_it_is_never_sent_again(
    process: Process, crash: Callable[[str], cellyard.Session]
) -> None:
    session = crash("start-reported")
    with cellyard.Client(process.endpoint) as client:
        (sandbox,) = client.list_sandboxes()
    results: list[cellyard.ExecutionResult] = []
    runner = threading.Thread(
        target=lambda: results.append(session.run("print('x', flush=True)\nwhile True: pass", None))
    )
    runner.start()
    assert process.process is not None
    assert process.process.wait(WITHIN) == -9
    next(each for each in process.containers() if each.id == sandbox.container_id).kill()
    process.start()
    runner.join(WITHIN)
    assert [(result.end, result.end_reason) for result in results] == [("lost", "exit")]
    assert session.run("'marker' in globals()").value is False
    session.close()


def test_what_waits_behind_a_running_cell_runs_after_the_restart(
    process: Process, crash: Callable[[str], cellyard.Session]
) -> None:
    session = crash("reports-committed:2")
    first = session.queue_cell(session.create_cell("import time\nprint(1, flush=True)\ntime.sleep(0.3)\nprint(2)"))
    second = session.queue_cell(session.create_cell(COUNT))
    revive(process).join()
    assert session.wait(first, WITHIN).stdout == "1\n2\n"
    assert session.wait(second, WITHIN).value == 1
    only_run_once(session)
    session.close()
