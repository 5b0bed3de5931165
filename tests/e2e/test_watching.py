"""Somebody watches what another one runs in a container; and goes on when the controller was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

PRINTS = "import time\nfor n in range(20):\n    print(n, flush=True)\n    time.sleep(0.02)\nfigure = 'done'\nfigure"


def printed(events: list[cellyard.NotebookEvent]) -> str:
    """What was printed while these happened."""
    shown = [event.event for event in events if isinstance(event, cellyard.ExecutionEvent)]
    return "".join(event.output.text or "" for event in shown if isinstance(event, cellyard.OutputEvent))


def is_end(event: cellyard.NotebookEvent) -> bool:
    return isinstance(event, cellyard.ExecutionEvent) and isinstance(event.event, cellyard.Finished)


def test_one_prints_and_the_other_one_watches(controller: Process) -> None:
    seen: list[cellyard.NotebookEvent] = []
    watching = threading.Event()

    def watch() -> None:
        with cellyard.Session("shared", endpoint=controller.endpoint) as session:
            for event in session.watch():
                seen.append(event)
                watching.set()
                if is_end(event):
                    return

    with cellyard.Session("shared", endpoint=controller.endpoint) as session:
        watcher = threading.Thread(target=watch)
        watcher.start()
        assert watching.wait(30)
        result = session.run(PRINTS)
        watcher.join(30)
        assert not watcher.is_alive()
    assert isinstance(seen[0], cellyard.Snapshot)
    assert seen[0].cells == []
    assert printed(seen).startswith(result.stdout)
    last = seen[-1]
    assert isinstance(last, cellyard.ExecutionEvent)
    assert isinstance(last.event, cellyard.Finished)
    assert last.event.result == result
    states = [event.kernel.state for event in seen if isinstance(event, cellyard.KernelChanged)]
    assert states[0] == "starting"
    assert "busy" in states


def test_watching_goes_on_when_the_controller_was_killed(controller: Process) -> None:
    session = cellyard.Session("nb", endpoint=controller.endpoint)
    session.run("import time")
    cell = session.create_cell("for n in range(60):\n    print(n, flush=True)\n    time.sleep(0.05)\ntime.sleep(600)")
    watching = session.watch()
    assert isinstance(next(watching), cellyard.Snapshot)
    session.queue_cell(cell)
    next(event for event in watching if "OutputEvent" in repr(event))
    controller.kill()
    controller.start()
    snapshot = next(event for event in watching if isinstance(event, cellyard.Snapshot))
    assert [each.status for each in snapshot.executions] == ["running"]
    (cell_then,) = [each for each in snapshot.cells if each.id == cell]
    shown = "".join(output.text or "" for output in cell_then.outputs)
    while shown.splitlines()[-1:] != ["59"]:
        shown += printed([next(watching)])
    session.interrupt()
    last = next(event for event in watching if is_end(event))
    assert isinstance(last, cellyard.ExecutionEvent)
    assert isinstance(last.event, cellyard.Finished)
    assert shown.split() == [str(n) for n in range(60)]
    assert last.event.result.end == "interrupted"
    assert last.event.result.stdout.split() == [str(n) for n in range(60)]
    session.close()


def test_the_command_line_watches(controller: Process) -> None:
    command = [sys.executable, "-m", "cellyard.cli", "notebooks", "watch", "nb", "--endpoint", controller.endpoint]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert missing.returncode == 2
    assert "'nb' not found" in missing.stderr
    with cellyard.Session("nb", endpoint=controller.endpoint) as session:
        session.set_metadata("k", "v")
        for options in ([], ["--json"]):
            watching = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert watching.stdout is not None
            first = watching.stdout.readline()
            session.run("print('hello')")
            lines = [first]
            while "Finished" not in lines[-1]:
                lines.append(watching.stdout.readline())
            watching.send_signal(2)
            _, said = watching.communicate(timeout=30)
            assert watching.returncode == 130, said
            if options:
                told = [json.loads(line) for line in lines]
                assert told[0]["metadata"] == {"k": "v"}
                assert told[0]["cells"][0]["outputs"][0]["text"] == "hello\n"
                assert told[-1]["event"]["result"]["end"] == "succeeded"
            else:
                assert lines[0] == "notebook nb: 0 cells, kernel none\n"
                assert any("hello" in line for line in lines)
