"""Code that calls its client, asks for input, shows widgets; and what else a kernel is asked."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker


def test_code_calls_a_function_of_its_client_and_gets_data_back(shared_controller: Process) -> None:
    def add(left: int, right: int = 0) -> tuple[int, bytes]:
        return left + right, b"\x00"

    code = "from cellyard_sandbox import host\nhost.add(40, right=2)"
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        assert session.run(code, host_calls=[add]).value == (42, b"\x00")
        assert session.run('host.call("plus", 1)', host_calls={"plus": lambda n: n + 1}).value == 2


def test_what_a_function_raises_is_an_exception_in_the_code(shared_controller: Process) -> None:
    def fail() -> None:
        raise LookupError("no such thing")

    code = (
        "from cellyard_sandbox import host\n"
        "try:\n    host.fail()\n"
        "except host.HostCallError as error:\n    print(error.name, '|', error)"
    )
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        assert session.run(code, host_calls=[fail]).stdout == "LookupError | LookupError: no such thing\n"


def test_nothing_offered_and_no_answer_that_is_data_are_errors_in_the_code(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        nothing = session.run("from cellyard_sandbox import host\nhost.anything()")
        assert nothing.error.ename == "HostUnavailable"
        assert "does not offer 'anything'" in nothing.error.evalue
        strange = session.run("host.strange()", host_calls={"strange": object})
        assert strange.error.ename == "HostCallError"
        assert "no data" in strange.error.evalue


async def test_coroutine_functions_answer_in_asyncio(shared_controller: Process) -> None:
    async def later(text: str) -> str:
        await asyncio.sleep(0)
        return text.upper()

    async with cellyard.AsyncSession(endpoint=shared_controller.endpoint) as session:
        done = await session.run("from cellyard_sandbox import host\nhost.later('x')", host_calls=[later])
        assert done.value == "X"
        calls = [event async for event in session.stream_execute(code="host.later('y')", host_calls=[later])]
        (called,) = [event for event in calls if isinstance(event, cellyard.HostCalled)]
        assert (called.name, called.args, called.kwargs) == ("later", ("y",), {})


def test_input_is_answered_by_a_function_and_raises_without_one(shared_controller: Process) -> None:
    asked: list[str] = []

    def on_input(prompt: str) -> str | None:
        asked.append(prompt)
        return "Ada" if len(asked) == 1 else None

    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        assert session.run("input('name? ')", on_input=on_input).value == "Ada"
        assert session.run("input()", on_input=on_input).error.ename == "EOFError"
        assert asked == ["name? ", ""]
        refused = session.run("input('name? ')")
        assert refused.error.ename == "StdinNotImplementedError"


def test_a_timeout_ends_a_cell_whose_client_takes_too_long(shared_controller: Process) -> None:
    release = threading.Event()

    def slow() -> str:
        release.wait(60)
        return "late"

    def let_go() -> None:
        with cellyard.Session(notebook_id="slow", endpoint=shared_controller.endpoint) as watcher:
            watcher.connect()
            (running,) = watcher.list_executions(limit=1)
            watcher.wait(running.execution_id)
            release.set()

    with cellyard.Session(notebook_id="slow", endpoint=shared_controller.endpoint) as session:
        assert session.run("from cellyard_sandbox import host").success
        other = threading.Thread(target=let_go)
        for event in session.stream_execute(code="host.slow()", timeout_secs=2, host_calls=[slow]):
            if isinstance(event, cellyard.Started):
                other.start()
            elif isinstance(event, cellyard.Finished):
                assert event.result.end is cellyard.End.TIMED_OUT
        other.join()
        assert session.run("'still here'").value == "still here"


def test_a_calls_answer_survives_the_death_of_the_controller(controller: Process) -> None:
    """Killed while the client's function runs: the code waits on, the answer reaches it through the successor."""

    def restart() -> str:
        controller.kill()
        controller.start()
        return "answered"

    with cellyard.Session(endpoint=controller.endpoint) as session:
        done = session.run("from cellyard_sandbox import host\nhost.restart()", host_calls=[restart])
        assert done.value == "answered"


def test_a_kernel_completes_inspects_and_remembers(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        with pytest.raises(cellyard.NoKernel):
            session.complete("pri")
        session.run("alphabet = 'abc'")
        session.run("def beta():\n    'Says beta.'")
        completed = session.complete("x = '𝄞'; alph")
        assert "alphabet" in completed.matches
        assert (completed.start, completed.end) == (9, 13)
        assert session.complete("alph + 1", cursor=4).matches == ["alphabet"]
        inspected = session.inspect("beta")
        assert inspected is not None
        assert "Says beta." in inspected["text/plain"]
        assert session.inspect("nothing_of_this_name") is None
        assert session.history() == [(1, "alphabet = 'abc'"), (2, "def beta():\n    'Says beta.'")]
        assert session.history(1) == [(2, "def beta():\n    'Says beta.'")]


def test_widgets_work_and_are_saved_with_the_notebook(shared_controller: Process) -> None:
    code = (
        "import ipywidgets as widgets\n"
        "slider = widgets.IntSlider(3)\n"
        "slider.observe(lambda change: seen.append(change['new']), 'value')\n"
        "seen = []\n"
        "display(slider)\n"
        "slider.comm.comm_id"
    )
    with cellyard.Session(endpoint=shared_controller.endpoint) as session:
        shown = session.run(code)
        comm_id = shown.value
        view = shown.outputs[0].data["application/vnd.jupyter.widget-view+json"]
        assert view["model_id"] == comm_id
        session.send_comm(comm_id, {"method": "update", "state": {"value": 7}, "buffer_paths": []})
        assert session.run("slider.value, seen").value == (7, [7])
        saved = json.loads(session.export_notebook())
        state = saved["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
        assert state[comm_id]["model_name"] == "IntSliderModel"
        assert state[comm_id]["state"]["value"] == 7
